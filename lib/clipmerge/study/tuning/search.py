"""How the learning rate of a profile was chosen: on validation images, never on test images.

    python -m clipmerge.study.tuning.search --rates 1e-4 2e-4 4e-4     # writes data_manifests/tuning/laptop.csv

A fifth of every task's training images is held out. For each rate, all experts are tuned on the rest and graded on the
held-out part twice: as they are, and decoupled from ConDU's unified delta after the last session. The second is what a
ConDU learner deploys, so the rate with the best mean of it is the one to take.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from clipmerge import files, paths
from clipmerge.clip import datasets, evaluate, models
from clipmerge.clip.datasets import Dataset
from clipmerge.merge import deltas
from clipmerge.study import experts, profiles, results
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import sessions
from clipmerge.study.profiles import Profile

HELD_OUT = 0  # seed of the validation split
GRADED = ("experts", "condu-ft")


def held(data: Dataset) -> Dataset:
    """The dataset with its validation images in place of its test images."""
    rows = datasets.validation_split(data, seed=HELD_OUT)[1]
    return replace(data, test_images=data.train_images[rows], test_labels=data.train_labels[rows])


def plan(profile: Profile, rate: float, seed: int = 0) -> dict[str, Step]:
    """Grading steps by method, for one learning rate."""
    trial = replace(profile, finetune=replace(profile.finetune, lr=rate, lr_by_task={}))
    tuned = [experts.step(trial, task, seed, held_out=HELD_OUT) for task in profiles.order(trial)]
    config = {"model": trial.model, "tasks": [experts.task_config(trial, task) for task in profiles.order(trial)]}
    grades = {}
    for method in GRADED:
        kept = sessions.build(method, f"sweep/{method}", tuned, trial.mtil.rescaler)[-1]
        grades[method] = Step(grade, f"sweep/{method}", config, experts.base_inputs(trial.model) | kept)
    return grades


def grade(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: accuracy of each expert of a bank on the held-out images of its own task."""
    model, expert = models.create(config["model"]), sessions.bank(inputs)
    base = models.state(model)
    accuracy, sizes = {}, {}
    for i, task in enumerate(config["tasks"]):
        data = held(experts.dataset(task))
        model.load_state_dict(deltas.apply_delta(base, expert(i)))
        accuracy[data.name] = evaluate.test_accuracy(model, config["model"], data)
        sizes[data.name] = len(data.test_labels)
    files.write_json(out / "accuracy.json", {"accuracy": accuracy, "n": sizes})


def run(profile: Profile, rates: Sequence[float]) -> pd.DataFrame:
    """Validation accuracy by method, task and rate, as tidy rows."""
    return gather(profile, {rate: plan(profile, rate) for rate in rates})


def gather(profile: Profile, plans: Mapping[float, Mapping[str, Step]], **more: object) -> pd.DataFrame:
    """Compute grading steps by rate and method; their accuracies as tidy rows, `more` as further columns."""
    store.build([step for grades in plans.values() for step in grades.values()], profile.workers)
    frames = []
    for rate, grades in plans.items():
        for method, step in grades.items():
            found = files.read_json(step.folder / "accuracy.json")
            values, fixed = results.with_mean(found["accuracy"]), {"method": method, "metric": "validation", "seed": 0}
            recipe = profile.finetune
            about = {"model": profile.model, "steps": recipe.steps, "classes": recipe.classes, "lr": rate, **more}
            frames.append(results.rows(values, n=found["n"], **fixed, **about))
    return pd.concat(frames, ignore_index=True)


def command(search: Callable[[Profile, Sequence[float]], pd.DataFrame], what: str, ending: str = "") -> None:
    """A command line: run `search` over the given rates, write ``data_manifests/tuning/<profile><ending>.csv``."""
    parser = argparse.ArgumentParser(description=f"Choose {what} on validation images.")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--rates", type=float, nargs="+", required=True)
    parser.add_argument("--classes", type=int, nargs="+", help="that one step tells apart (default: the profile's)")
    arguments = parser.parse_args()
    profile = profiles.load(arguments.profile)
    trials = [replace(profile.finetune, classes=most) for most in arguments.classes or [profile.finetune.classes]]
    rows = pd.concat([search(replace(profile, finetune=trial), arguments.rates) for trial in trials])
    path = paths.manifests() / "tuning" / f"{arguments.profile}{ending}.csv"
    files.write_text(path, rows.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    means = rows[rows.task == "mean"].pivot(index=["classes", "lr"], columns="method", values="value")
    print(means.round(2).to_string())


if __name__ == "__main__":
    from clipmerge.study.tuning import search

    search.command(search.run, "a learning rate")
