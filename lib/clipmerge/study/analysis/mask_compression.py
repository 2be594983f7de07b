"""Smaller triggers: what a task gives up so that less than one bit per coordinate brings it back.

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
from clipmerge.merge import condu
from clipmerge.merge.bitmask import packed_size
from clipmerge.merge.registry import among
from clipmerge.study.analysis import learned
from clipmerge.study.condu import sessions

SIZE = "size.json"
SCALAR = 4  # bytes of one fp32 number
Delta = dict[str, Tensor]
Mask = dict[str, Tensor]


@dataclass(frozen=True)
class Compressed:
    """The delta of each task by its number, and the bytes of one task's trigger (shared parts divided among tasks)."""

    delta: Callable[[int], Delta]
    bytes_per_task: int | float


def compress(unified: condu.Unified, kind: str, value: int | float = 0) -> Compressed:
    """``keep`` (`value` is a share of coordinates), ``share`` (a number of masks), or one of the four `blocks`."""
    ways = {
        "keep": lambda: keep(unified, value),
        "share": lambda: share(unified, int(value)),
        "tensor bit": lambda: blocks(unified, "tensor", gain=False),
        "row bit": lambda: blocks(unified, "row", gain=False),
        "tensor gain": lambda: blocks(unified, "tensor", gain=True),
        "row gain": lambda: blocks(unified, "row", gain=True),
    }
    return ways[among("trigger", kind, tuple(ways))]()


def keep(unified: condu.Unified, portion: int | float) -> Compressed:
    """Prune: only the `portion` of coordinates where |u| is largest keep their bits, elsewhere every mask is 0."""
    size = torch.cat([u.abs().flatten() for u in unified.delta.values()])
    dropped = round((1 - portion) * len(size))
    least = size.kthvalue(dropped).values if dropped else -1
    top = {key: u.abs() > least for key, u in unified.delta.items()}
    count = sum(int(part.sum()) for part in top.values())

    def delta(i: int) -> Delta:
        own = _mask(unified, i)
        return _rescaled(unified, i, {key: own[key] & top[key] for key in top})

    return Compressed(delta, packed_size(count) + SCALAR)


def share(unified: condu.Unified, groups: int) -> Compressed:
    """Share: tasks with similar masks (Hamming distance, average linkage) use their majority's; λ stays their own.

    There are at most `groups` masks; a tie between two elects 1.
    """
    masks = [_mask(unified, i) for i in range(len(unified.triggers))]
    label = np.arange(len(masks))
    if groups < len(masks):
        bits = np.stack([np.concatenate([mask[key].flatten().numpy() for key in sorted(mask)]) for mask in masks])
        label = hierarchy.fcluster(hierarchy.linkage(pdist(bits, "hamming"), "average"), groups, "maxclust")

    def delta(i: int) -> Delta:
        members = [masks[j] for j in np.flatnonzero(label == label[i])]
        majority = {key: sum(mask[key].int() for mask in members) * 2 >= len(members) for key in masks[i]}
        return _rescaled(unified, i, majority)

    size = sum(packed_size(u.numel()) for u in unified.delta.values())
    return Compressed(delta, len(np.unique(label)) * size / len(masks) + SCALAR)


def blocks(unified: condu.Unified, unit: str, gain: bool) -> Compressed:
    """One number for a whole block, a tensor or a row of one (`unit`), in place of a bit for each coordinate.

    With `gain` it is the factor g = λ Σ_M u² / Σ u² that brings g·u nearest to λ·M⊙u in the block (4 bytes); without,
    a bit: 1 where the mask holds at least half of the block's Σ u².
    """

    def delta(i: int) -> Delta:
        mask = _mask(unified, i)
        held = {key: _held(u, mask[key], unit) for key, u in unified.delta.items()}
        if gain:
            return {key: unified.triggers[i].rescaler * held[key] * u for key, u in unified.delta.items()}
        return _rescaled(unified, i, {key: (held[key] >= 0.5).expand_as(u) for key, u in unified.delta.items()})

    count = sum(len(u) if unit == "row" and u.ndim > 1 else 1 for u in unified.delta.values())
    return Compressed(delta, count * SCALAR if gain else packed_size(count) + SCALAR)


def _held(u: Tensor, mask: Tensor, unit: str) -> Tensor:
    """Share of each block's Σ u² that a mask holds, in a shape that spreads over u."""
    rows = len(u) if unit == "row" and u.ndim > 1 else 1
    energy = u.square().reshape(rows, -1)
    held = (energy * mask.reshape(rows, -1)).sum(1) / energy.sum(1).clamp(min=torch.finfo(u.dtype).tiny)
    return held.reshape(rows, *[1] * (u.ndim - 1)) if u.ndim else held.reshape(())


def _mask(unified: condu.Unified, i: int) -> Mask:
    return {key: mask.unpack() for key, mask in unified.triggers[i].mask.items()}


def _rescaled(unified: condu.Unified, i: int, mask: Mask) -> Delta:
    """λ' · M' ⊙ u with the magnitude of the reconstruction λ · M ⊙ u that it replaces."""
    masked = {key: torch.where(mask[key], u, 0) for key, u in unified.delta.items()}
    scale = condu.rescaler(condu.decouple(unified, i), masked, unified.rescaler)
    return {key: scale * value for key, value in masked.items()}


def grade(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: accuracy of every task under its own smaller trigger, and the bytes that takes."""
    compressed = compress(sessions.load(inputs["session"]), config["kind"], config["value"])
    learned.grade(out, config, map(compressed.delta, range(len(config["tasks"]))))
    files.write_json(out / SIZE, {"bytes": compressed.bytes_per_task})
