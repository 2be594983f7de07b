"""Step functions of a long run: tune many short experts, let ConDU learn them one by one, grade what is left.

A step that tunes takes a chunk of tasks, because one short expert is not worth a folder of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from clipmerge import files
from clipmerge.clip import datasets, evaluate, finetune, models
from clipmerge.merge import condu, deltas
from clipmerge.study import experts
from clipmerge.study.cache.step import accelerator
from clipmerge.study.condu import sessions, smalltasks

DELTAS, DRIFT, GRADES = "deltas.safetensors", "drift.json", "grades.json"
METHODS = ("zero-shot", "experts", "average", "emr", "condu-ft")
Delta = dict[str, Tensor]


def dataset(config: Mapping) -> datasets.Dataset:
    """The images of a small task: a `task_config` of its dataset with ``name`` and ``classes`` on top."""
    return smalltasks.narrow(experts.dataset(config), config["name"], config["classes"])


def tune(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: one expert for each task of a chunk, always from the base."""
    model = models.create(config["model"])
    base = models.state(model)
    recipe, tensors = finetune.Recipe(**config["recipe"]), {}
    for i, task in enumerate(config["tasks"]):
        model.cpu().load_state_dict(base)
        finetune.tune(model.to(accelerator()), config["model"], dataset(task), recipe, seed)
        change = deltas.delta(model.cpu().state_dict(), base)
        tensors |= {f"{i:02d}.{key}": value for key, value in change.items()}
    files.save_tensors(out / DELTAS, tensors)


def tuned(inputs: Mapping[str, Path]) -> list[Delta]:
    """All experts' deltas in the order of learning, from inputs named ``chunk.00``, ``chunk.01``, …"""
    found: list[Delta] = []
    for name in sorted(name for name in inputs if name.startswith("chunk.")):
        tensors = files.load_tensors(inputs[name] / DELTAS)
        parts: dict[str, Delta] = {}
        for key, value in tensors.items():
            number, _, rest = key.partition(".")
            parts.setdefault(number, {})[rest] = value
        found += [parts[number] for number in sorted(parts)]
    return found


def learn(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: ConDU's sessions 1…T; keeps its state at ``marks`` and how far each reconstruction has drifted.

    The drift of session t is a list over the tasks seen: cosine with the original delta, density of the mask. At the
    marks the same is measured for EMR-Merging, which unifies the originals in one go.
    """
    originals, unified = tuned(inputs), None
    drift: dict[str, dict] = {"condu-ft": {}, "emr": {}}
    for t, newcomer in enumerate(originals, start=1):
        unified = condu.extend(unified, newcomer) if unified else condu.unify([newcomer], config["rescaler"])
        drift["condu-ft"][t] = _drift(unified, originals)
        if t in config["marks"]:
            sessions.save(out / f"{t:03d}.safetensors", unified)
            drift["emr"][t] = _drift(condu.unify(originals[:t], config["rescaler"]), originals)
    files.write_json(out / DRIFT, drift)


def _drift(unified: condu.Unified, originals: Sequence[Delta]) -> dict[str, list[float]]:
    seen = range(len(unified.triggers))
    return {
        "cosine": [cosine(condu.decouple(unified, i), originals[i]) for i in seen],
        "density": [density(unified.triggers[i]) for i in seen],
    }


def cosine(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Cosine between two deltas, all tensors as one long vector, in fp64; 0 if either is zero."""
    products = torch.zeros(3, dtype=torch.float64)
    for key in sorted(one):
        a, b = one[key].flatten().double(), other[key].flatten().double()
        products += torch.stack([a @ b, a @ a, b @ b])
    norm = (products[1] * products[2]).sqrt()
    return (products[0] / norm).item() if norm > 0 else 0.0


def density(trigger: condu.Trigger) -> float:
    """Share of ones in a whole mask."""
    count = sum(mask.count for mask in trigger.mask.values())
    return sum(mask.density() * mask.count for mask in trigger.mask.values()) / count


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
    sizes = {data.name: len(data.test_labels) for data in tasks}
    files.write_json(out / GRADES, {"accuracy": accuracy, "n": sizes})


def _answers(config: Mapping, inputs: Mapping[str, Path]) -> Iterator[tuple[int, int, Delta]]:
    """(tasks learned so far, task asked, the delta that answers it)."""
    method, marks, last = config["method"], config["marks"], len(config["tasks"])
    if method == "zero-shot":
        yield from ((last, i, {}) for i in range(last))
    elif method == "experts":
        yield from ((last, i, change) for i, change in enumerate(tuned(inputs)))
    elif method == "average":
        originals = tuned(inputs)
        for t in marks:
            mean = {key: torch.stack([d[key] for d in originals[:t]]).mean(0) for key in originals[0]}
            yield from ((t, i, mean) for i in range(t))
    else:
        originals = tuned(inputs) if method == "emr" else []
        for t in marks:
            if method == "emr":
                unified = condu.unify(originals[:t], config["rescaler"])
            else:
                unified = sessions.load(inputs["learned"] / f"{t:03d}.safetensors")
            yield from ((t, i, condu.decouple(unified, i)) for i in range(t))
