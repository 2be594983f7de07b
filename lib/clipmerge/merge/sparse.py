"""TIES and its relatives: thin every delta out, elect a sign per coordinate, average those that carry it."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from clipmerge.errors import BadInput
from clipmerge.merge import loops
from clipmerge.merge.registry import Block, Number, Recipe, among, group, technique, within

PER = ("model", "tower", "tensor")
Ranks = Callable[[int], Sequence[int]] | None


@technique()
def ties(
    keep: Number = 0.2, prune: Number | None = None, scale: Number = 1.0, per: str = "model", zero: str = "majority"
) -> Recipe:
    """θ = θ⁰ + s · mean of the trimmed τ_k that carry the elected sign sgn Σ_k τ_k (Yadav et al., arXiv 2306.01708).

    `keep` is TIES' K: the share of largest |τ_k| that survives, default the paper's 20 %. TIME's `prune_percentile` is
    the share that goes: `prune=p` instead of `keep`. Values equal to the threshold stay, as in TIES' and TIME's codes
    (mergekit takes exactly as many values as it keeps, so it may drop some of them). `per`: the vector that is trimmed,
    the whole "model" (paper), each "tower" (TIME) or each "tensor". `zero`: sign where the sum is exactly 0, "majority"
    of all elected signs (both codes) or "none" (such coordinates do not move).
    """
    within("keep", keep, 0, 1)
    prune = None if prune is None else within("prune", prune, 0, 1)

    def ranks(count: int) -> tuple[int]:  # rank 0: nothing is trimmed
        return (min(count, count - int(keep * count) if prune is None else int(prune * count)),)

    return _elect_and_mean(_trimmed, scale, zero, per, ranks=ranks)


@technique(random=True)
def dare_ties(drop: Number = 0.8, scale: Number = 1.0, zero: str = "majority", per: str = "model") -> Recipe:
    """DARE (Yu et al. 2024, arXiv 2311.03099), then TIES' election.

    Every τ_kj is dropped with probability p (`drop`), else divided by 1 − p. TIME's code keeps values not below the
    k-th random number, so very slightly more than 1 − p; here draws are independent, their generator derived from
    tensor, expert and block. `per`: over what the majority of `zero` is counted.
    """
    within("drop", drop, 0, 1)
    if drop == 1:
        raise BadInput("drop: expected a probability below 1, found 1")

    def thinned(block: Block) -> np.ndarray:
        out = np.empty_like(block.deltas)
        for k, change in enumerate(block.deltas):
            loops.thin(change, block.drawn(k), float(drop), out[k])
        return out

    return _elect_and_mean(thinned, scale, zero, per)


@technique()
def breadcrumbs_ties(
    prune: Number = 0.8,
    top: Number = 0.01,
    scale: Number = 1.0,
    per: str = "model",
    merge: str = "mean",
    zero: str = "majority",
) -> Recipe:
    """Model Breadcrumbs (Davari & Belilovsky 2024, arXiv 2312.06795), then TIES' election.

    Of each τ_k the share `prune` of smallest and the share `top` of largest magnitudes go: of n values the ⌊prune·n⌋
    smallest, the last of them too, and the ⌊top·n⌋ largest. Breadcrumbs itself masks `per="tensor"`; TIME per "tower",
    with top 0.01 in its configs (class default 0.2). `merge`: "mean" of the agreeing values (TIME's configs) or their
    "sum" (its class default, and Breadcrumbs' own task vectors). Shares that leave nothing are refused, as there.
    """
    within("prune", prune, 0, 1)
    within("top", top, 0, 1)
    if prune + top >= 1:
        raise BadInput(f"prune + top: expected less than 1, or nothing is left, found {prune + top:g}")

    def ranks(count: int) -> tuple[int, int]:  # of the smallest and the largest value that stay
        return min(count, int(prune * count) + 1), count - int(top * count)

    total = among("merge", merge, ("mean", "sum")) == "sum"
    return _elect_and_mean(_trimmed, scale, zero, per, total, ranks)


def _trimmed(block: Block) -> np.ndarray:
    """The deltas, 0 where |τ| in fp32, the precision in which magnitudes are ranked, is not within the cuts."""
    low, *high = np.array(block.cuts, np.float64).T.copy()
    out = np.empty_like(block.deltas)
    loops.trim(block.deltas, low, high[0] if high else np.full_like(low, np.inf), out)
    return out


def _elect_and_mean(
    thin: Callable[[Block], np.ndarray], scale: Number, zero: str, per: str, total: bool = False, ranks: Ranks = None
) -> Recipe:
    among("per", per, PER)
    among("zero", zero, ("majority", "none"))

    def merge(block: Block) -> np.ndarray:
        otherwise = block.known[group(block.name, per)] if block.known else 0.0
        update = block.empty()
        loops.elect_and_combine(thin(block), otherwise, not total, update)
        return block.base + scale * update

    def signs(block: Block) -> list[float]:
        return [float(loops.balance(thin(block)))]

    def majority(sums: Mapping[str, list[float]]) -> dict[str, float]:
        votes = defaultdict(float)
        for name, (balance,) in sums.items():
            votes[group(name, per)] += balance
        return {vector: float(balance > 0) - float(balance < 0) for vector, balance in votes.items()}

    return Recipe(merge, ranks, per, measure=signs if zero == "majority" else None, conclude=majority)
