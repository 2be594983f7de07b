"""Step functions of `many_tasks`: tune many short experts, let ConDU learn them one by one, grade what is left.

A step that tunes takes a chunk of tasks, because one short expert is not worth a folder of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from clipmerge import files
from clipmerge.clip import evaluate, finetune, models
from clipmerge.clip.datasets import Dataset
from clipmerge.merge import condu, deltas, folder
from clipmerge.study import experts
from clipmerge.study.condu.reconstruction import cosine, density

DELTAS, DRIFT, GRADES = "deltas.safetensors", "drift.json", "grades.json"
METHODS = ("zero-shot", "experts", "average", "emr", "condu-ft")
Delta = dict[str, Tensor]


def dataset(config: Mapping) -> Dataset:
    """The images of a small task: a `task_config` of its dataset with ``name`` and ``classes`` on top."""
    return narrow(experts.dataset(config), config["name"], config["classes"])


def narrow(data: Dataset, name: str, classes: Sequence[int]) -> Dataset:
    """The part of a dataset that shows the given classes, relabelled 0, 1, … in their order."""
    label = torch.full((len(data.classes),), -1)
    label[torch.tensor(classes)] = torch.arange(len(classes))
    parts = {}
    for side in ("train", "test"):
        labels = label[getattr(data, f"{side}_labels")]
        parts[f"{side}_images"] = getattr(data, f"{side}_images")[labels >= 0]
        parts[f"{side}_labels"] = labels[labels >= 0]
    return replace(data, name=name, classes=tuple(data.classes[i] for i in classes), **parts)


def tune(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: one expert for each task of a chunk, always from the base."""
    model = models.create(config["model"])
    base = models.state(model)
    recipe, tensors = finetune.Recipe(**config["recipe"]), {}
    for i, task in enumerate(config["tasks"]):
        model.load_state_dict(base)
        finetune.tune(model, config["model"], dataset(task), recipe, seed)
        change = deltas.delta(models.state(model), base)
        tensors |= {f"{i:02d}.{key}": value for key, value in change.items()}
    files.save_tensors(out / DELTAS, tensors)


def tuned(inputs: Mapping[str, Path]) -> list[Delta]:
    """All experts' deltas in the order of learning, from inputs named ``chunk.00``, ``chunk.01``, …"""
    found: dict[tuple[str, str], Delta] = {}
    for name in sorted(name for name in inputs if name.startswith("chunk.")):
        for key, value in sorted(files.load_tensors(inputs[name] / DELTAS).items()):
            number, _, tensor = key.partition(".")
            found.setdefault((name, number), {})[tensor] = value
    return list(found.values())


def learn(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: ConDU's sessions 1…T; keeps its state at ``marks`` and how far each reconstruction has drifted.

    A record is a session's mean over the tasks seen: cosine with the original delta, density of the mask in per cent.
    At the marks the same is measured for EMR-Merging, which unifies the originals in one go.
    """
    originals, unified = tuned(inputs), None
    records = []
    for t, newcomer in enumerate(originals, start=1):
        unified = condu.extend(unified, newcomer) if unified else condu.unify([newcomer], config["rescaler"])
        records += _drift("condu-ft", unified, originals)
        if t in config["marks"]:
            folder.save(unified, out / f"{t:03d}")
            records += _drift("emr", condu.unify(originals[:t], config["rescaler"]), originals)
    files.write_json(out / DRIFT, records)


def _drift(method: str, unified: condu.Unified, originals: Sequence[Delta]) -> list[dict]:
    session = len(unified.triggers)
    cosines = [cosine(originals[i], condu.decouple(unified, i)) for i in range(session)]
    densities = [100 * density(trigger) for trigger in unified.triggers]
    means = {"cosine": sum(cosines) / session, "density": sum(densities) / session}
    return [{"method": method, "metric": metric, "session": session, "value": mean} for metric, mean in means.items()]


def grade(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: accuracy on every task seen so far, each by its own expert, at each of ``marks``.

    What does not change from mark to mark (experts, the base) is graded once, after the last.
    """
    model, tasks = models.create(config["model"]), [dataset(task) for task in config["tasks"]]
    base = models.state(model)
    accuracy: dict[int, dict[str, float]] = {}
    for t, i, change in _answers(config, inputs):
        model.load_state_dict(deltas.apply_delta(base, change))
        found = evaluate.test_accuracy(model, config["model"], tasks[i])
        accuracy.setdefault(t, {})[tasks[i].name] = found
    accuracy = {t: accuracy.get(t, accuracy[len(tasks)]) for t in config["marks"]}
    sizes = {data.name: len(data.test_labels) for data in tasks}
    files.write_json(out / GRADES, {"accuracy": accuracy, "n": sizes})


def _answers(config: Mapping, inputs: Mapping[str, Path]) -> Iterator[tuple[int, int, Delta]]:
    """(tasks learned so far, task asked, the delta that answers it)."""
    method, last, originals = config["method"], len(config["tasks"]), tuned(inputs)
    if method == "zero-shot":
        yield from ((last, i, {}) for i in range(last))
        return
    if method == "experts":
        yield from ((last, i, change) for i, change in enumerate(originals))
        return
    for t in config["marks"]:
        if method == "average":
            mean = {key: torch.stack([delta[key] for delta in originals[:t]]).mean(0) for key in originals[0]}
            yield from ((t, i, mean) for i in range(t))
            continue
        if method == "condu-ft":
            unified = folder.load(inputs["learned"] / f"{t:03d}")
        else:
            unified = condu.unify(originals[:t], config["rescaler"])
        yield from ((t, i, condu.decouple(unified, i)) for i in range(t))
