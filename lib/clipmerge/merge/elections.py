"""Techniques that choose per coordinate: the largest, those that matter to several tasks, the strongest of a sign."""

import math
from collections.abc import Mapping

import numpy as np

from clipmerge.errors import BadInput
from clipmerge.merge.kernels import unify_chunk
from clipmerge.merge.registry import Block, Number, Recipe, among, technique, within
from clipmerge.merge.unifying import RESCALERS, ratio, reconstruct


@technique(symmetric=False)  # only where two magnitudes are exactly equal does order matter
def magmax(scale: Number = 1.0, equal: str = "later") -> Recipe:
    """θ_j = θ⁰_j + s · (the τ_kj of largest magnitude) (Marczak et al. 2024, arXiv 2407.06322).

    `equal`: which expert wins an exact tie, the "later" (official MagMax) or the "first" (TIME's argmax).
    """
    among("equal", equal, ("later", "first"))

    def merge(block: Block) -> np.ndarray:
        high = block.deltas.max(axis=0)
        low = block.deltas.min(axis=0)
        balance = high + low
        best = np.where(balance > 0, high, low)
        tied = np.flatnonzero((balance == 0) & (high > 0))  # τ and −τ: only here does it matter who came when
        reached = abs(block.deltas[:, tied]) == high[tied]
        winner = len(reached) - 1 - reached[::-1].argmax(axis=0) if equal == "later" else reached.argmax(axis=0)
        best[tied] = block.deltas[winner, tied]
        return block.base + scale * best

    return Recipe(merge)


@technique()
def tall_mask(scale: Number = 1.0, sharpness: Number = 0.4, consensus: int = 2) -> Recipe:
    """θ = θ⁰ + s · 1[Σ_k m_k ≥ t] ⊙ Σ_k τ_k with m_k = 1[|τ_k| > λ |Σ τ − τ_k|] (Wang et al. 2024, arXiv 2405.07813).

    `sharpness` is λ, `consensus` is t. TIME's code defaults to t = 0, which keeps everything and is task arithmetic.
    """
    within("sharpness", sharpness, 0, math.inf)
    within("consensus", consensus, 0, math.inf)

    def merge(block: Block) -> np.ndarray:
        multi = sum(block.deltas)
        votes = sum((abs(d) > sharpness * abs(multi - d)).astype(np.int64) for d in block.deltas)
        return block.base + scale * multi * (votes >= consensus)

    return Recipe(merge)


@technique()
def emr(task: int | None = None, rescaler: str = "tensor_mean", scale: Number = 1.0) -> Recipe:
    """EMR-Merging (Huang et al. 2024, arXiv 2405.17461): ConDU's unify over all experts at once.

    θ = θ⁰ + s u with no `task`, θ = θ⁰ + s λ_i M_i ⊙ u for task i: `condu.unify` and `decouple`, in one call and, like
    them, of deltas kept in fp32.
    """
    among("rescaler", rescaler, RESCALERS)

    def unified(block: Block) -> tuple[np.ndarray, np.ndarray, list[list[float]]]:
        return unify_chunk(block.deltas.astype(block.rows.dtype))  # in the precision deltas are kept in

    def merge(block: Block) -> np.ndarray:
        dense, bits, _ = unified(block)
        return block.base + scale * (dense if task is None else reconstruct(dense, bits[task], block.known))

    def norms(block: Block) -> list[float]:
        if not 0 <= task < len(block.rows):
            raise BadInput(f"task: expected a position from 0 to {len(block.rows) - 1}, found {task}")
        ((*sums,),) = unified(block)[2]
        return [sums[task], sums[len(block.rows) + task], float(block.high - block.low)]

    def conclude(sums: Mapping[str, list[float]]) -> float:
        before, after, counts = ({name: values[part] for name, values in sums.items()} for part in range(3))
        return ratio(before, after, {name: int(count) for name, count in counts.items()}, rescaler)

    return Recipe(merge, measure=None if task is None else norms, conclude=conclude)
