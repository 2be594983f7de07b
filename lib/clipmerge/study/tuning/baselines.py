"""How baselines got those hyper-parameters that the literature's values do not settle at our scale.

    python -m clipmerge.study.tuning.baselines     # writes data_manifests/tuning/baselines.csv

Validation images only (`datasets.validation_split` of the training part). Two choices are made here:

* ``l2``: λ of weight consolidation, by the mean accuracy on the first three tasks after learning them in turn;
* ``rail``: width, ridge and share of the regression, by the mean accuracy over all tasks.

What an autoencoder of MoE-Adapters accepts is calibrated task by task when it is fitted (`ddas.fit`).
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from clipmerge import files, paths
from clipmerge.clip import evaluate, models
from clipmerge.merge import deltas
from clipmerge.study import experts, profiles, results
from clipmerge.study.baselines import rail, reference, sequential
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.profiles import Profile
from clipmerge.study.tuning import search

LAMBDAS = (0.01, 0.1, 1.0)
WIDTHS, RIDGES, SHARES = (1024, 2048), (0.001, 0.01, 0.1, 1.0), (0.5, 0.8, 0.9, 0.95, 1.0)


def grade(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: accuracy of one model on the validation images of some tasks."""
    model = models.create(config["model"])
    model.load_state_dict(deltas.apply_delta(model.state_dict(), experts.delta(inputs["model"])))
    tasks = [search.held(experts.dataset(task)) for task in config["tasks"]]
    accuracy = {data.name: evaluate.test_accuracy(model, config["model"], data) for data in tasks}
    files.write_json(out / "accuracy.json", accuracy)


def l2(profile: Profile, lambdas: Sequence[float] = LAMBDAS, tasks: int = 3, seed: int = 0) -> pd.DataFrame:
    """Validation accuracy on the first tasks after learning them in turn, for each λ."""
    order, steps = profiles.order(profile)[:tasks], {}
    config = {"model": profile.model, "tasks": [experts.task_config(profile, task) for task in order]}
    for value in lambdas:
        trial = replace(profile, baselines=replace(profile.baselines, l2=value))
        last = sequential.chain(trial, "l2", order, seed, held_out=search.HELD_OUT)[-1]
        inputs = experts.base_inputs(profile.model) | {"model": last}
        steps[value] = Step(grade, "choose/l2", config, inputs)
    store.build(steps.values(), profile.workers)
    frames = []
    for value, step in steps.items():
        accuracy = files.read_json(step.folder / "accuracy.json")
        frames.append(_rows("l2", accuracy, setting=f"lambda={value:g}"))
    return pd.concat(frames, ignore_index=True)


def ridge(profile: Profile, seed: int = 0) -> pd.DataFrame:
    """Validation accuracy of RAIL after all tasks for a grid of settings; the regression solved in one go."""
    order = profiles.order(profile)
    train = files.load_tensors(store.get(reference.train_features(profile, order)) / reference.FEATURES)
    model, frames, heads = models.create(profile.model), [], {}
    for task in order:
        heads[task] = evaluate.head(model, profile.model, experts.dataset(experts.task_config(profile, task)))
    for width in WIDTHS:
        layer = rail.expansion(model.visual.output_dim, width, seed)
        gram, cross, rows = _moments(train, order, layer, [len(heads[task]) for task in order])
        for value in RIDGES:
            weights = torch.linalg.solve(gram + value * torch.eye(width, dtype=torch.float64), cross)
            answers = {task: rows[task][0] @ weights[:, rows[task][1]] for task in order}
            for share in SHARES:
                accuracy = {}
                for task in order:
                    rest = train[f"held.{task}"]
                    zero_shot = evaluate.SCALE * train[f"z.{task}"][rest] @ heads[task].T
                    every = torch.ones(len(heads[task]), dtype=torch.bool)
                    fused = rail.fuse(zero_shot, answers[task], every, share)
                    accuracy[task] = evaluate.accuracy(fused, train[f"y.{task}"][rest])
                frames.append(_rows("rail", accuracy, setting=f"width={width} ridge={value:g} share={share:g}"))
    return pd.concat(frames, ignore_index=True)


def _moments(train: Mapping, order: Sequence[str], layer: torch.Tensor, classes: Sequence[int]) -> tuple:
    """Gram matrix and class sums of the images that are not held out; features and columns of those that are."""
    width, total = layer.shape[1], sum(classes)
    gram, cross = torch.zeros(width, width).double(), torch.zeros(width, total).double()
    rows, first = {}, 0
    for task, many in zip(order, classes, strict=True):
        phi, labels, rest = rail.expand(train[f"z.{task}"], layer), train[f"y.{task}"], train[f"held.{task}"]
        fit = torch.ones(len(phi), dtype=torch.bool).index_fill_(0, rest, False)
        gram += phi[fit].T @ phi[fit]
        cross.index_add_(1, first + labels[fit], phi[fit].T)
        rows[task] = phi[rest], slice(first, first + many)
        first += many
    return gram, cross, rows


def _rows(method: str, accuracy: Mapping[str, float], setting: str) -> pd.DataFrame:
    return results.rows(results.with_mean(accuracy), method=method, metric="validation", seed=0, setting=setting)


def main() -> None:
    """Command line of the choice."""
    parser = argparse.ArgumentParser(description="Choose baselines' hyper-parameters on validation images.")
    parser.add_argument("--profile", default="laptop")
    profile = profiles.load(parser.parse_args().profile)
    rows = pd.concat([ridge(profile), l2(profile)], ignore_index=True)
    path = paths.manifests() / "tuning" / "baselines.csv"
    files.write_text(path, rows.to_csv(index=False, float_format="%.3f", lineterminator="\n"))
    print(rows[rows.task == "mean"].sort_values("value").groupby("method").tail(5).to_string())


if __name__ == "__main__":
    from clipmerge.study.tuning import baselines

    baselines.main()
