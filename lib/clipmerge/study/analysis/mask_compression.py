"""Leaner triggers: what a task gives up so that less than one bit per coordinate brings it back.

Each way takes a unified delta u with its triggers and gives, task by task, another delta to use and the bytes that the
task's trigger then takes. Where a mask changes, λ is measured again against the δ̃ it stands for, so that the
reconstruction stays as large as it was. u itself is held by whoever decodes: what follows from u costs nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist
from torch import Tensor

from clipmerge import files
from clipmerge.clip import evaluate, models
from clipmerge.errors import BadInput
from clipmerge.merge import condu, deltas
from clipmerge.merge.bitmask import packed_size
from clipmerge.study import experts
from clipmerge.study.condu import sessions

GRADES = "grades.json"
SCALAR = 4  # bytes of one fp32 number
Bits = dict[str, Tensor]


@dataclass(frozen=True)
class Lean:
    """A lean bank: the delta of each task, and the bytes of one task's trigger (shared parts divided among tasks)."""

    delta: Callable[[int], Mapping[str, Tensor]]
    bytes_per_task: int | float


def masks(unified: condu.Unified) -> list[Bits]:
    """The masks, unpacked to boolean tensors."""
    return [{key: mask.unpack() for key, mask in trigger.mask.items()} for trigger in unified.triggers]


def _again(unified: condu.Unified, i: int, mask: Bits) -> dict[str, Tensor]:
    """λ' · M' ⊙ u with the magnitude of the reconstruction λ · M ⊙ u that it replaces."""
    masked = {key: torch.where(mask[key], u, 0) for key, u in unified.delta.items()}
    scale = condu.rescaler(condu.decouple(unified, i), masked, unified.rescaler)
    return {key: scale * value for key, value in masked.items()}


def keep(unified: condu.Unified, portion: int | float) -> Lean:
    """Prune: only the `portion` of coordinates where |u| is largest keep their bits, elsewhere every mask is 0."""
    size = torch.cat([u.abs().flatten() for u in unified.delta.values()])
    dropped = round((1 - portion) * len(size))
    least = size.kthvalue(dropped).values if dropped else -1
    top = {key: u.abs() > least for key, u in unified.delta.items()}
    own = masks(unified)
    count = sum(int(part.sum()) for part in top.values())
    return Lean(lambda i: _again(unified, i, {key: own[i][key] & top[key] for key in top}), packed_size(count) + SCALAR)


def share(unified: condu.Unified, groups: int) -> Lean:
    """Share: tasks with similar masks (Hamming distance, average linkage) use their majority's; λ stays their own.

    There are at most `groups` masks; a tie between two elects 1.
    """
    own = masks(unified)
    tasks, size = len(own), sum(packed_size(u.numel()) for u in unified.delta.values())
    groups = min(groups, tasks)
    label = np.arange(tasks)
    if groups < tasks:
        bits = np.stack([np.concatenate([mask[key].flatten().numpy() for key in sorted(mask)]) for mask in own])
        label = hierarchy.fcluster(hierarchy.linkage(pdist(bits, "hamming"), "average"), groups, "maxclust")

    def delta(i: int) -> Mapping[str, Tensor]:
        members = [own[j] for j in np.flatnonzero(label == label[i])]
        major = {key: sum(m[key].int() for m in members) * 2 >= len(members) for key in own[i]}
        return _again(unified, i, major)

    return Lean(delta, len(np.unique(label)) * size / tasks + SCALAR)


def blocks(unified: condu.Unified, unit: str, gain: bool) -> Lean:
    """One number for a whole block, a tensor or a row of one (`unit`), in place of a bit for each coordinate.

    With `gain` it is the factor g = λ Σ_M u² / Σ u² that brings g·u nearest to λ·M⊙u in the block (4 bytes); without,
    a bit: 1 where the mask holds at least half of the block's Σ u².
    """
    own, count = masks(unified), sum(_cut(u, unit).shape[0] for u in unified.delta.values())

    def delta(i: int) -> Mapping[str, Tensor]:
        parts = {}
        for key, u in unified.delta.items():
            energy = _cut(u.square(), unit)
            held = (energy * _cut(own[i][key], unit)).sum(1) / energy.sum(1).clamp(min=torch.finfo(u.dtype).tiny)
            parts[key] = held.reshape(-1, *[1] * (u.ndim - 1)) if unit == "row" and u.ndim > 1 else held.reshape(())
        if not gain:
            return _again(unified, i, {key: (part >= 0.5).expand_as(u) for (key, part), u in _pairs(parts, unified)})
        return {key: unified.triggers[i].rescaler * part * u for (key, part), u in _pairs(parts, unified)}

    return Lean(delta, count * SCALAR if gain else packed_size(count) + SCALAR)


def _pairs(parts: Bits, unified: condu.Unified) -> zip:
    return zip(parts.items(), unified.delta.values(), strict=True)


def _cut(x: Tensor, unit: str) -> Tensor:
    """[blocks, coordinates]: rows of a matrix (or whatever has more axes), or everything in one block."""
    return x.reshape(len(x), -1) if unit == "row" and x.ndim > 1 else x.reshape(1, -1)


def lean(unified: condu.Unified, kind: str, value: int | float = 0) -> Lean:
    """A way by its name: ``keep`` (share of coordinates), ``share`` (number of masks), or a kind of `blocks`."""
    ways = {
        "keep": lambda: keep(unified, value),
        "share": lambda: share(unified, int(value)),
        "tensor bit": lambda: blocks(unified, "tensor", gain=False),
        "row bit": lambda: blocks(unified, "row", gain=False),
        "tensor gain": lambda: blocks(unified, "tensor", gain=True),
        "row gain": lambda: blocks(unified, "row", gain=True),
    }
    if kind not in ways:
        raise BadInput(f"trigger: expected one of {', '.join(ways)}; found {kind!r}")
    return ways[kind]()


def grade(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: accuracy of every task under its own lean trigger, and the bytes that takes."""
    model = models.create(config["model"])
    base = models.state(model)
    unified = sessions.load(inputs["session"] / sessions.UNIFIED)
    bank, accuracy = lean(unified, config["kind"], config["value"]), {}
    for i, task in enumerate(config["tasks"]):
        data = experts.dataset(task)
        model.load_state_dict(deltas.apply_delta(base, bank.delta(i)))
        accuracy[data.name] = evaluate.test_accuracy(model, config["model"], data)
    files.write_json(out / GRADES, {"accuracy": accuracy, "bytes": bank.bytes_per_task})
