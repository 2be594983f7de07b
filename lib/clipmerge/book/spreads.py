"""Which of two families of settings spreads more: a permutation test over their members, families made equally large.

"What is initialised and deployed matters more than how it is merged" compares the range from worst to best over one
family with that over another. The range of many is larger than that of few for no other reason than their number, so
each family's range is the mean over all subsets of the smaller family's size. That difference of ranges is set against
what it would be if membership were dealt out at random, the same deal for all seeds, after both families were moved to
a median of nought in each seed. What decides is thus how many members there are, and not how many seeds: further seeds
make each member surer, but do not make a family of four a large one.
"""

from math import comb

import numpy as np
import pandas as pd
from jaxtyping import Float

from clipmerge.book.tables import mean_sd
from clipmerge.book.verdicts import FAILS, HOLDS, LEVEL, OPEN
from clipmerge.errors import BadInput

DEALS = 1_999  # random deals of the members, beside the true one


def wider(
    claim: str, first: pd.DataFrame, second: pd.DataFrame, unit: str = "points", digits: int = 1
) -> dict[str, object]:
    """A line of a table of verdicts, as from `verdicts.verdict`: the range over `first` exceeds that over `second`.

    Both tables have a row for each member and a column for each seed. Members without a number on one of the seeds that
    both have are left out. The difference is that of the ranges, mean ± sd over seeds; in place of an interval stands
    the two-sided p of the permutation test, and p ≤ 0.05 decides. The same numbers give the same p.
    """
    seeds = first.columns.intersection(second.columns)
    if not len(seeds):
        found = f"{list(first)} and {list(second)}"
        raise BadInput(f"claim {claim!r}: expected seeds that both families have, found {found}")
    members = [family[seeds].dropna().to_numpy(dtype="float64") for family in (first, second)]
    size = min(len(family) for family in members)
    line = {"claim": claim, "difference": "–", "95 %": "–", "seeds": len(seeds), "verdict": OPEN}
    if size < 2:
        return line
    gap = mean_range(members[0], size) - mean_range(members[1], size)
    p = _permuted(members, size)
    line["difference"] = f"{mean_sd(gap, digits)} {unit}".rstrip()
    line["95 %"] = f"p = {p:.3f}"
    if p <= 1 - LEVEL:
        line["verdict"] = HOLDS if gap.mean() > 0 else FAILS
    return line


def mean_range(values: Float[np.ndarray, "*deals members seeds"], size: int) -> Float[np.ndarray, "*deals seeds"]:
    """Mean over all subsets of `size` members of the range from worst to best, exactly.

    The member of rank i of n is the best of C(i − 1, size − 1) subsets and the worst of C(n − i, size − 1).
    """
    n = values.shape[-2]
    best = np.array([comb(rank, size - 1) for rank in range(n)], dtype="float64")
    return np.einsum("...ms,m->...s", np.sort(values, axis=-2), (best - best[::-1]) / comb(n, size))


def _permuted(members: list[Float[np.ndarray, "_ seeds"]], size: int) -> float:
    """Two-sided p of the difference of ranges, averaged over seeds, against random deals of the members."""
    pool = np.concatenate([family - np.median(family, axis=0) for family in members])
    cut = len(members[0])
    generator = np.random.default_rng(0)
    dealt = generator.permuted(np.tile(np.arange(len(pool)), (DEALS, 1)), axis=1)
    dealt = pool[np.concatenate([np.arange(len(pool))[None], dealt])]
    gaps = (mean_range(dealt[:, :cut], size) - mean_range(dealt[:, cut:], size)).mean(axis=-1)
    return float((np.abs(gaps) >= abs(gaps[0]) - 1e-9).mean())
