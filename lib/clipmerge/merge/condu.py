"""ConDU: many deltas in one, and each one back out of it (arXiv 2503.10705; equations in its words).

`elect`, `agree` and `rescaler` are the paper's equations on whole tensors, there to be read and changed. `unify`,
`extend` and `decouple` do the same chunk by chunk with the fused loops of `kernels`, equal to them bit for bit.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from clipmerge.errors import BadInput
from clipmerge.merge.bitmask import PackedMask, packed_size
from clipmerge.merge.deltas import layout
from clipmerge.merge.kernels import l1
from clipmerge.merge.layout import check_layout
from clipmerge.merge.pieces import chunk, spans
from clipmerge.merge.unifying import RESCALERS, distinct, find, known_rescaler, ratio, reconstruct, unify_rows

__all__ = ["RESCALERS", "Trigger", "Unified", "agree", "decouple", "elect", "extend", "rescaler", "unify"]
Rows = Callable[[str, int, int], np.ndarray]  # (tensor name, start, stop) -> that part of one flattened delta


@dataclass(frozen=True, eq=False)
class Trigger:
    """What brings one task's delta back: a mask per tensor and the scalar λ."""

    mask: dict[str, PackedMask]
    rescaler: float
    name: str = ""


@dataclass(frozen=True, eq=False)
class Unified:
    """One dense delta u for all tasks, one trigger per task, and how its rescalers were measured."""

    delta: dict[str, Tensor]
    triggers: tuple[Trigger, ...]
    rescaler: str = "tensor_mean"


def elect(deltas: Tensor) -> Tensor:
    """u_j = max_d d_j where Σ_d d_j > 0, else min_d d_j: the strongest value of the elected sign.

    deltas: float[experts, ...] → float[...]. A zero sum elects −1, as in the reference code.
    """
    total = sum(d.double() for d in deltas)
    return torch.where(total > 0, deltas.amax(0), deltas.amin(0))


def agree(delta: Tensor, unified: Tensor) -> Tensor:
    """M_j = 1[d_j s_j > 0], where the elected sign s_j is +1 if u_j > 0 and −1 otherwise. bool, shape of `delta`."""
    return torch.where(unified > 0, delta > 0, delta < 0)


def rescaler(delta: Mapping[str, Tensor], masked: Mapping[str, Tensor], kind: str = "tensor_mean") -> float:
    """λ = A(d) / A(M ⊙ u), A an average magnitude: keeps each delta as large as it was.

    kind "tensor_mean": A = Σ_tensors mean|x|, every tensor counts once (the reference code); "global_l1": A = Σ|x|, the
    paper's natural reading; "none": λ = 1. If either A is 0, λ = 0 with a warning: nothing of the delta is left.
    """
    sizes = {name: tensor.numel() for name, tensor in delta.items()}
    return ratio(norms(delta), norms(masked), sizes, kind)


def norms(state: Mapping[str, Tensor]) -> dict[str, float]:
    """Σ|x| of every tensor, in fp64 and in a fixed order."""
    read = rows_of(state)
    return {name: math.fsum(l1(read(name, *span)) for span in spans(x.numel())) for name, x in state.items()}


def unify(
    deltas: Sequence[Mapping[str, Tensor]], rescaler: str = "tensor_mean", names: Sequence[str] | None = None
) -> Unified:
    """Unify deltas of equal keys and shapes into one, with a trigger for each.

    Of freshly tuned experts all at once, this is EMR-Merging (arXiv 2405.17461); ConDU calls it through `extend`.
    `names` label the triggers (default "0", "1", …). Raises BadInput on differing layouts, NaN or Inf.
    """
    if not deltas:
        raise BadInput("unify: expected at least one delta, found none")
    known_rescaler(rescaler)
    names = distinct([str(k) for k in range(len(deltas))] if names is None else names, len(deltas))
    for name, delta in zip(names, deltas, strict=True):
        check_layout(layout(deltas[0]), layout(delta), f"delta {name!r}")
    return _unify(deltas[0], [rows_of(delta) for delta in deltas], rescaler, names)


def extend(unified: Unified, delta: Mapping[str, Tensor], name: str | None = None) -> Unified:
    """One more session: decouple every earlier task, unify the reconstructions with the newcomer.

    All masks and rescalers are rewritten. Earlier deltas are rebuilt a chunk at a time, never whole.
    """
    check_layout(layout(unified.delta), layout(delta), "the new delta")
    names = [*(trigger.name for trigger in unified.triggers), name or str(len(unified.triggers))]
    distinct(names, len(names))
    earlier = [rows_of_task(unified.delta, trigger) for trigger in unified.triggers]
    return _unify(delta, [*earlier, rows_of(delta)], unified.rescaler, names)


def decouple(unified: Unified, task: int | str) -> dict[str, Tensor]:
    """δ̃ⁱ = λⁱ · Mⁱ ⊙ u of one task, by position or name."""
    read = rows_of_task(unified.delta, find(unified.triggers, task))
    return {n: torch.from_numpy(read(n, 0, u.numel())).reshape(u.shape) for n, u in unified.delta.items()}


def rows_of(state: Mapping[str, Tensor]) -> Rows:
    """Read parts of the flattened tensors of a state dict."""
    flat = {name: tensor.detach().reshape(-1).cpu().numpy() for name, tensor in state.items()}
    return lambda name, start, stop: flat[name][start:stop]


def rows_of_task(delta: Mapping[str, Tensor], trigger: Trigger) -> Rows:
    """Read parts of a reconstructed delta λ · M ⊙ u that nobody holds as a whole."""
    dense = rows_of(delta)

    def read(name: str, start: int, stop: int) -> np.ndarray:
        bits = trigger.mask[name].bits.numpy()[start // 8 : packed_size(stop)]
        return reconstruct(dense(name, start, stop), bits, trigger.rescaler)

    return read


def _unify(like: Mapping[str, Tensor], rows: Sequence[Rows], kind: str, names: Sequence[str]) -> Unified:
    shapes = {name: tuple(like[name].shape) for name in sorted(like)}
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    dense, masks, before, after = {}, [{} for _ in rows], [{} for _ in rows], [{} for _ in rows]
    for name, count in sizes.items():
        u, bits = np.empty(count, like[name].numpy().dtype), np.empty((len(rows), packed_size(count)), np.uint8)
        norms = []
        for start, stop in spans(count, chunk(len(rows))):
            found = unify_rows(name, np.stack([read(name, start, stop) for read in rows]), names)
            u[start:stop], bits[:, start // 8 : packed_size(stop)] = found[:2]
            norms += found[2]
        dense[name] = torch.from_numpy(u).reshape(shapes[name])
        for k in range(len(rows)):
            masks[k][name] = PackedMask(torch.from_numpy(bits[k].copy()), shapes[name])
            before[k][name], after[k][name] = (math.fsum(block[i] for block in norms) for i in (k, len(rows) + k))
    scales = [ratio(before[k], after[k], sizes, kind) for k in range(len(rows))]
    triggers = tuple(map(Trigger, masks, scales, names))
    return Unified(dense, triggers, kind)
