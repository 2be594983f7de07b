"""What numbers, one a seed, say about a claim: one rule for every notebook and for the ledger of claims.

A claim says where the mean of a paired difference lies, one number a seed: above a threshold, below one, or within a
margin of nought (it *matches*; "does not lose" is above minus a margin). Student's two-sided 95 % interval of that mean
decides. The claim *holds* if the whole interval lies where the claim says, it *does not hold* if the whole interval
lies elsewhere, and it is *not decidable* otherwise: no claim is refuted by noise or for want of seeds. A true
difference exactly on the threshold, or on the margin, is decided either way at most once in twenty, in each row. Rows
are not corrected for their number: of twenty such coins on a page, one may fall.

What does not change with the seed is one number, however often it is written down. It counts once, and one number is
not decidable: it shows no spread to judge it by.

Whether one family of settings spreads more than another is decided by a permutation test over their members. The range
of many is larger than that of few for no other reason than their number, so each family's range is the mean over all
subsets of the smaller family's size. That difference of ranges is set against what it would be if membership were dealt
out at random, the same deal for all seeds, after both families were moved to a median of nought in each seed. What
decides is thus how many members there are, and not how many seeds: further seeds make each member surer, but do not
make a family of four a large one.
"""

from collections.abc import Iterable, Sequence
from math import comb, inf

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from clipmerge.errors import BadInput

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decidable"
LEVEL = 0.95
DEALS = 1_999  # random deals of the members, beside the true one


def numbers(gap: Iterable[float]) -> pd.Series:
    """What there is of `gap`; once, if it is the same (up to rounding) for all seeds."""
    kept = pd.Series(list(gap), dtype="float64").dropna()
    return kept.iloc[:1] if len(kept) and np.allclose(kept, kept.iloc[0], rtol=1e-9, atol=1e-9) else kept


def interval(gap: Iterable[float]) -> tuple[float, float] | None:
    """Student's two-sided 95 % interval of the mean of `gap`, one number a seed; none of fewer than two that differ."""
    kept = numbers(gap)
    if len(kept) < 2:
        return None
    half = stats.t.ppf((1 + LEVEL) / 2, len(kept) - 1) * kept.std(ddof=1) / len(kept) ** 0.5
    return kept.mean() - half, kept.mean() + half


def claimed(
    above: float | None = None, below: float | None = None, within: float | None = None
) -> tuple[float, float]:
    """Where a claim says that the mean lies: between these two, neither included; above 0 if nothing is said."""
    given = {"above": above, "below": below, "within": within}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise BadInput(f"expected one of above, below and within, found {given}")
    if within is not None and not within > 0:
        raise BadInput(f"within: expected a margin above 0, found {within}")
    if within is not None:
        return -within, within
    return (above or 0.0, inf) if below is None else (-inf, below)


def decide(found: tuple[float, float] | None, place: tuple[float, float]) -> str:
    """One of the three answers: does the mean, which lies in `found`, lie between the two ends of `place`?"""
    if found is None:
        return OPEN
    low, high = place
    if (low == -inf or low < found[0]) and (high == inf or found[1] < high):
        return HOLDS
    return FAILS if found[1] < low or high < found[0] else OPEN


def word(
    gap: Iterable[float], above: float | None = None, below: float | None = None, within: float | None = None
) -> str:
    """One of the three answers to "the mean of `gap`, one number a seed, is above 0".

    Or `above` a number, or `below` one, or less than `within` from 0.
    """
    return decide(interval(gap), claimed(above, below, within))


def best_elsewhere(scores: pd.DataFrame) -> pd.Series:
    """For each seed (row), the score of the candidate (column) that is best on average over the *other* seeds.

    Whoever takes the best of several on the numbers it is then judged by takes its luck as well; here nobody is judged
    on a seed that chose it. Candidates without any number are none; seeds on which another is missing, or without a
    second seed, have no number. The name of the result says who was chosen, most often chosen first.
    """
    whole = scores.dropna(axis=1, how="all").dropna()
    if len(whole) < 2 or whole.empty:
        return pd.Series(np.nan, index=scores.index, name="none")
    chosen = ((whole.sum() - whole) / (len(whole) - 1)).idxmax(axis=1)
    taken = [whole.at[seed, candidate] for seed, candidate in chosen.items()]
    name = " or ".join(str(candidate) for candidate in chosen.value_counts().index)
    return pd.Series(taken, index=chosen.index, dtype="float64", name=name).reindex(scores.index)


def mean_range(values: Float[np.ndarray, "*deals members seeds"], size: int) -> Float[np.ndarray, "*deals seeds"]:
    """Mean over all subsets of `size` members of the range from worst to best, exactly.

    The member of rank i of n is the best of C(i − 1, size − 1) subsets and the worst of C(n − i, size − 1).
    """
    n = values.shape[-2]
    best = np.array([comb(rank, size - 1) for rank in range(n)], dtype="float64")
    return np.einsum("...ms,m->...s", np.sort(values, axis=-2), (best - best[::-1]) / comb(n, size))


def wider(families: Sequence[Float[np.ndarray, "_ seeds"]]) -> tuple[Float[np.ndarray, " seeds"], float] | None:
    """By how much the first of two families spreads more than the second, by seed, and the two-sided p of that.

    The same numbers give the same p. None if one of the families has fewer than two members, or there is no seed.
    """
    size = min(len(family) for family in families)
    if size < 2 or not families[0].size:
        return None
    pool = np.concatenate([family - np.median(family, axis=0) for family in families])
    cut = len(families[0])
    generator = np.random.default_rng(0)
    dealt = generator.permuted(np.tile(np.arange(len(pool)), (DEALS, 1)), axis=1)
    dealt = pool[np.concatenate([np.arange(len(pool))[None], dealt])]
    gaps = (mean_range(dealt[:, :cut], size) - mean_range(dealt[:, cut:], size)).mean(axis=-1)
    p = float((np.abs(gaps) >= abs(gaps[0]) - 1e-9).mean())
    return mean_range(families[0], size) - mean_range(families[1], size), p


def by_p(effect: float, p: float) -> str:
    """One of the three answers from the p of a test of "no difference": its sign decides where p ≤ 0.05."""
    if p > 1 - LEVEL:
        return OPEN
    return HOLDS if effect > 0 else FAILS
