"""ConDU's protocol, multi-domain task-incremental learning: one accuracy matrix A[t, i] per method and seed.

A[t, i] is the accuracy on task i after session t. A *seen* task (i ≤ t) is answered by its own expert where the method
keeps experts apart; an *unseen* one by the base and the K experts nearest to the image (paper §4.3; `evaluate`).
Methods that keep a single model answer everything with it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from clipmerge import files
from clipmerge.clip import evaluate, models
from clipmerge.merge import deltas
from clipmerge.study import experts, profiles, results, sessions, store
from clipmerge.study.engine import Progress
from clipmerge.study.profiles import Profile
from clipmerge.study.steps import Step

METHODS = ("zero-shot", "continual-ft", "experts", "average", "emr", "condu-ft")
READING, ACCURACY = "reading.safetensors", "accuracy.json"


def plan(profile: Profile, method: str, seed: int, order: Sequence[str] | None = None, model: str = "") -> list[Step]:
    """The steps that grade `method` after each session; what they build on is reached through their inputs."""
    order, model = tuple(order or profiles.order(profile)), model or profile.model
    name = f"{method}/{model.replace('/', '+')}"
    tuned = [experts.step(profile, task, seed, model) for task in order]
    chain = experts.continual(profile, order, seed) if method == "continual-ft" else []
    shared = {"rescaler": profile.mtil.rescaler}
    kept: list[dict[str, Step]] = []
    for t in range(len(order)):
        so_far = sessions.numbered(tuned[: t + 1])
        if method == "zero-shot":
            kept.append({})
        elif method == "continual-ft":
            kept.append({"model": chain[t]})
        elif method == "experts":
            kept.append(so_far)
        elif method == "average":
            kept.append({"model": Step(sessions.average, f"session/{name}/{t + 1:02d}", {}, so_far)})
        elif method == "emr":
            kept.append({"session": Step(sessions.one_shot, f"session/{name}/{t + 1:02d}", shared, so_far)})
        elif method == "condu-ft":
            inputs = {"newcomer": tuned[t]} | ({"earlier": kept[-1]["session"]} if t else {})
            kept.append({"session": Step(sessions.extend, f"session/{name}/{t + 1:02d}", shared, inputs)})
    return [_grade(profile, name, order, model, method, t, inputs) for t, inputs in enumerate(kept)]


def _grade(
    profile: Profile, name: str, order: Sequence[str], model: str, method: str, t: int, kept: Mapping[str, Step]
) -> Step:
    tasks = [experts.task_config(profile, task) for task in order]
    config = {"model": model, "tasks": tasks, "k": profile.mtil.k, "seen": t + 1}
    if method in ("zero-shot", "continual-ft", "average"):
        config = {"model": model, "tasks": tasks}  # one model for everything: nothing to route
        return Step(grade_model, f"grade/{name}/{t + 1:02d}", config, experts.base_inputs(model) | kept)
    inputs = experts.base_inputs(model) | {"reading": reading(profile, order, model)} | kept
    return Step(grade_bank, f"grade/{name}/{t + 1:02d}", config, inputs)


def reading(profile: Profile, order: Sequence[str], model: str = "") -> Step:
    """What the base sees: features and logits of all test images, and every task's prototypes."""
    model = model or profile.model
    tasks = [experts.task_config(profile, task) for task in sorted(order)]
    name = f"reading/{model.replace('/', '+')}"
    return Step(read, name, {"model": model, "tasks": tasks}, experts.base_inputs(model))


def read(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function of `reading`."""
    base, tensors = models.create(config["model"]), {}
    for task in config["tasks"]:
        data = experts.dataset(task)
        z = evaluate.features(base, data.test_images)
        tensors[f"z.{data.name}"] = z
        tensors[f"logits.{data.name}"] = evaluate.SCALE * z @ evaluate.head(base, config["model"], data).T
        tensors[f"prototypes.{data.name}"] = evaluate.prototypes(base, config["model"], data)
    files.save_tensors(out / READING, tensors)


def grade_model(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: accuracy of one model (the base plus a delta, if there is one) on every task."""
    model = models.create(config["model"])
    if "model" in inputs:
        model.load_state_dict(deltas.apply_delta(model.state_dict(), experts.delta(inputs["model"])))
    tasks = [experts.dataset(task) for task in config["tasks"]]
    _write(out, {data.name: evaluate.test_accuracy(model, config["model"], data) for data in tasks}, tasks)


def grade_bank(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: accuracy of a bank of experts, seen tasks by their own, unseen ones by the nearest K and the base.

    Experts are the outer loop, so that each is decoupled and loaded once.
    """
    name, seen, model = config["model"], config["seen"], models.create(config["model"])
    base = {key: value.clone() for key, value in model.state_dict().items()}
    tasks = [experts.dataset(task) for task in config["tasks"]]
    known, unseen = tasks[:seen], tasks[seen:]
    about, expert = files.load_tensors(inputs["reading"] / READING), sessions.bank(inputs)
    prototypes = [about[f"prototypes.{data.name}"] for data in known]
    chosen = {
        u.name: evaluate.nearest(evaluate.similarity(about[f"z.{u.name}"], prototypes), config["k"]) for u in unseen
    }
    answer = {u.name: evaluate.Aggregate.of(about[f"logits.{u.name}"]) for u in unseen}
    accuracy = {}
    for i, own in enumerate(known):
        model.load_state_dict(deltas.apply_delta(base, expert(i)))
        accuracy[own.name] = evaluate.test_accuracy(model, name, own)
        for u in unseen:
            rows = chosen[u.name][:, i]
            if rows.any():
                answer[u.name].add(rows, evaluate.test_logits(model, name, u, rows))
    accuracy |= {u.name: evaluate.accuracy(answer[u.name].mean(), u.test_labels) for u in unseen}
    _write(out, accuracy, tasks)


def _write(out: Path, accuracy: Mapping[str, float], tasks: Sequence) -> None:
    sizes = {data.name: len(data.test_labels) for data in tasks}
    files.write_json(out / ACCURACY, {"accuracy": accuracy, "n": sizes})


def matrix(steps: Sequence[Step], order: Sequence[str]) -> np.ndarray:
    """The accuracy matrix [sessions, tasks] that computed grading steps have left, in per cent."""
    graded = [_read(step)["accuracy"] for step in steps]
    return np.array([[row[task] for task in order] for row in graded])


def _read(step: Step) -> dict:
    return files.read_json(store.get(step) / ACCURACY)


def run(
    profile: Profile,
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] | None = None,
    order: Sequence[str] | None = None,
    model: str = "",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Everything at once: tidy rows (accuracy of every session, transfer, average, last) of methods × seeds."""
    order, seeds = tuple(order or profiles.order(profile)), profile.seeds if seeds is None else seeds
    plans = {(method, seed): plan(profile, method, seed, order, model) for method in methods for seed in seeds}
    store.build([step for steps in plans.values() for step in steps], profile.workers, progress)
    frames = []
    for (method, seed), steps in plans.items():
        a, n = matrix(steps, order), _read(steps[0])["n"]
        fixed = {"method": method, "seed": seed, "n": n, "model": model or profile.model}
        frames += [results.matrix_rows(a, order, **fixed), results.mtil_rows(a, order, **fixed)]
    return pd.concat(frames, ignore_index=True)
