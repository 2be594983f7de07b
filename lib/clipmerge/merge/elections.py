"""Techniques that choose per coordinate: the largest, those that matter to several tasks, the strongest of a sign."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from clipmerge.errors import BadInput
from clipmerge.merge import condu
from clipmerge.merge.kernels import l1
from clipmerge.merge.registry import Block, Number, Recipe, among, technique, within


@technique(symmetric=False)  # only where two magnitudes are exactly equal does order matter
def magmax(scale: Number = 1.0, equal: str = "later") -> Recipe:
    """θ_j = θ⁰_j + s · (the τ_kj of largest magnitude) (Marczak et al. 2024, arXiv 2407.06322).

    `equal`: which expert wins an exact tie, the "later" (official MagMax) or the "first" (TIME's argmax).
    """
    among("equal", equal, ("later", "first"))

    def merge(block: Block) -> Tensor:
        best = block.deltas[0]
        for d in block.deltas[1:]:
            wins = d.abs() >= best.abs() if equal == "later" else d.abs() > best.abs()
            best = torch.where(wins, d, best)
        return block.base + scale * best

    return Recipe(merge)


@technique()
def tall_mask(scale: Number = 1.0, sharpness: Number = 0.4, consensus: int = 2) -> Recipe:
    """θ = θ⁰ + s · 1[Σ_k m_k ≥ t] ⊙ Σ_k τ_k with m_k = 1[|τ_k| > λ |Σ τ − τ_k|] (Wang et al. 2024, arXiv 2405.07813).

    `sharpness` is λ, `consensus` is t. TIME's code defaults to t = 0, which keeps everything and is task arithmetic.
    """
    within("sharpness", sharpness, 0, math.inf)
    within("consensus", consensus, 0, math.inf)

    def merge(block: Block) -> Tensor:
        multi = sum(block.deltas)
        votes = sum((d.abs() > sharpness * (multi - d).abs()).int() for d in block.deltas)
        return block.base + scale * multi * (votes >= consensus)

    return Recipe(merge)


@technique()
def emr(task: int | None = None, rescaler: str = "tensor_mean", scale: Number = 1.0) -> Recipe:
    """EMR-Merging (Huang et al. 2024, arXiv 2405.17461): ConDU's unify over all experts at once.

    θ = θ⁰ + s u with no `task`, θ = θ⁰ + s λ_i M_i ⊙ u for task i: `condu.unify` and `decouple`, in one call and, like
    them, of deltas kept in fp32.
    """
    among("rescaler", rescaler, condu.RESCALERS)

    def merge(block: Block) -> Tensor:
        unified = _unified(block)
        if task is None:
            return block.base + scale * unified
        kept = condu.agree(_task(block, task), unified)
        return block.base + scale * (torch.where(kept, block.known * unified, 0))

    def norms(block: Block) -> list[float]:
        unified, delta = _unified(block), _task(block, task)
        return [l1(delta.numpy()), l1((unified * condu.agree(delta, unified)).numpy()), float(len(delta))]

    def conclude(sums: Mapping[str, list[float]]) -> float:
        before, after, counts = ({name: values[part] for name, values in sums.items()} for part in range(3))
        return condu.ratio(before, after, {name: int(count) for name, count in counts.items()}, rescaler)

    return Recipe(merge, measure=None if task is None else norms, conclude=conclude)


def _unified(block: Block) -> Tensor:
    return condu.elect(block.deltas.to(block.dtype))  # in the precision that deltas are kept in


def _task(block: Block, task: int) -> Tensor:
    if not 0 <= task < len(block.deltas):
        raise BadInput(f"task: expected a position from 0 to {len(block.deltas) - 1}, found {task}")
    return block.deltas[task].to(block.dtype)
