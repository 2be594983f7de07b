"""Techniques that combine whole vectors: averages, sums, arcs."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from clipmerge.errors import BadInput
from clipmerge.merge import loops
from clipmerge.merge.registry import Block, Number, Recipe, technique, within


@technique(weighted=True)
def average() -> Recipe:
    """θ = Σ_k w_k θ_k, Σ w = 1 (Wortsman et al. 2022, arXiv 2203.05482). Default: uniform weights."""
    return Recipe(lambda block: mean(block, block.weights), base=False)


@technique()
def task_arithmetic(scale: Number = 1.0) -> Recipe:
    """θ = θ⁰ + s Σ_k τ_k (Ilharco et al. 2023, arXiv 2212.04089).

    A sum, not a mean: TIME's configs use s from 0.1 to 1. In its EMA fold the reference stays the base:
    θ⁰ + s [(e − θ⁰) + (r − θ⁰)].
    """

    def merge(block: Block) -> np.ndarray:
        out = block.empty()
        loops.added(block.rows, block.origin, scale, block.low, block.high, out)
        return out

    return Recipe(merge)


@technique(pair=True, weighted=True)
def slerp(swap: bool = False, linear_above: Number = 0.9995) -> Recipe:
    """Per tensor, with Ω the angle between θ_a and θ_b: θ = [sin(w_a Ω) θ_a + sin(w_b Ω) θ_b] / sin Ω (Shoemake 1985).

    Linear where |cos Ω| > `linear_above`, or where a tensor is zero and has no angle. TIME's code hands the first
    weight to the *second* model: `swap=True`.
    """

    def merge(block: Block) -> np.ndarray:
        wa, wb = reversed(block.weights) if swap else block.weights
        cos = block.known[block.name]
        if math.isnan(cos) or abs(cos) > linear_above:
            return mean(block, (wa, wb))
        omega = math.acos(cos)
        return mean(block, [math.sin(w * omega) / math.sin(omega) for w in (wa, wb)])

    def measure(block: Block) -> tuple[float, float, float]:
        return loops.products(*(row[block.low : block.high] for row in block.rows))

    return Recipe(merge, measure=measure, conclude=cosines, base=False)


@technique(pair=True)
def model_stock() -> Recipe:
    """Per tensor, with c = cos(τ_a, τ_b) and r = 2c / (1 + c): θ = r (θ_a + θ_b) / 2 + (1 − r) θ⁰ (arXiv 2403.19522).

    Where a delta is zero or c = −1 there is no such r and θ = θ⁰. TIME's code adds 1e-8 to the norms instead.
    """

    def merge(block: Block) -> np.ndarray:
        cos = block.known[block.name]
        r = 0.0 if math.isnan(cos) or cos == -1 else 2 * cos / (1 + cos)
        return mean(block, (r / 2, r / 2)) + (1 - r) * block.base

    return Recipe(merge, measure=lambda block: loops.products(*block.deltas), conclude=cosines)


@technique(weighted=True)
def fisher(floor: Number = 0.0, normalise: bool = False) -> Recipe:
    """θ = Σ_k w_k F_k θ_k / Σ_k w_k F_k (Matena & Raffel 2022, arXiv 2111.09832).

    F_k ≥ 0, the diagonal of expert k's Fisher information, comes through the `fishers` of `merge`, one state dict (file
    to file: one path) per expert. `floor` is added to each F. Where all F are zero the plain weighted mean is taken.
    With `normalise` w_k / |F_k| stands for w_k (|F_k| over all tensors; they sum to one): a model whose Fisher
    information is larger everywhere then counts no more than others.
    """
    within("floor", floor, 0, math.inf)

    def merge(block: Block) -> np.ndarray:
        out, weights = block.empty(), np.array(block.weights, np.float64)
        if normalise:
            weights = weights / block.known
            weights /= weights.sum()
        if not loops.fisher(block.rows, block.diagonals, weights, float(floor), block.low, block.high, out):
            raise BadInput(f"fishers: {block.name} should hold numbers ≥ 0, found a negative one")
        return out

    def measure(block: Block) -> list[float]:
        part = block.diagonals[:, block.low : block.high].astype(np.float64)
        return list(np.einsum("kj,kj->k", part, part))

    both = {"measure": measure, "conclude": lengths} if normalise else {}
    return Recipe(merge, fishers=True, base=False, **both)


@technique(random=True)
def random(scale: Number = 1.0) -> Recipe:
    """θ_j = θ⁰_j + s τ_{k(j), j}: every coordinate from an expert k(j) drawn uniformly (TIME's control)."""

    def merge(block: Block) -> np.ndarray:
        experts, width = block.rows.shape
        places = block.drawn() % experts * np.uint32(width) + np.arange(block.low, block.high, dtype=np.uint32)
        return block.base + scale * (block.rows.ravel().take(places) - block.base)

    return Recipe(merge)


def mean(block: Block, weights: Sequence[Number]) -> Float[np.ndarray, " n"]:
    """Σ w_k θ_k."""
    out = block.empty()
    loops.weighted(block.rows, np.array(weights, np.float64), block.low, block.high, out)
    return out


def lengths(sums: Mapping[str, list[float]]) -> Float[np.ndarray, " experts"]:
    """Of the vectors whose squares were summed tensor by tensor; 1 where a vector is zero."""
    squares = np.array([math.fsum(column) for column in zip(*sums.values(), strict=True)])
    return np.sqrt(np.where(squares > 0, squares, 1))


def cosines(sums: Mapping[str, list[float]]) -> dict[str, float]:
    """Per tensor a·b / (|a| |b|), clipped to [−1, 1]; NaN if a or b is zero."""

    def cosine(aa: float, bb: float, ab: float) -> float:
        return max(-1.0, min(1.0, ab / math.sqrt(aa) / math.sqrt(bb))) if aa > 0 and bb > 0 else math.nan

    return {name: cosine(*products) for name, products in sums.items()}
