"""What became of a claim: one rule for every notebook.

A claim says where the mean of a paired difference lies, one number a seed: above a threshold, below one, or within a
margin of nought (it *matches*; "does not lose" is above minus a margin). Student's two-sided 95 % interval of that mean
decides. The claim *holds* if the whole interval lies where the claim says, it *does not hold* if the whole interval
lies elsewhere, and it is *not decidable* otherwise: no claim is refuted by noise or for want of seeds. A true
difference exactly on the threshold, or on the margin, is decided either way at most once in twenty, in each row. Rows
are not corrected for their number: of twenty such coins on a page, one may fall.

What does not change with the seed is one number, however often it is written down. It counts once, and one number is
not decidable: it shows no spread to judge it by.

The interval is over seeds, on the test images at hand. Which images were drawn is not in it. Two methods err on much
the same images, so that what the draw does to their *difference* shows only image by image (a paired bootstrap), and
artefacts keep accuracies, not answers. Captions say how many images stand behind a number.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import stats

from clipmerge.book.tables import mean_sd
from clipmerge.errors import BadInput

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decidable"
LEVEL = 0.95


def interval(gap: Iterable[float]) -> tuple[float, float] | None:
    """Student's two-sided 95 % interval of the mean of `gap`, one number a seed; none of fewer than two that differ."""
    kept = _numbers(gap)
    if len(kept) < 2:
        return None
    half = stats.t.ppf((1 + LEVEL) / 2, len(kept) - 1) * kept.std(ddof=1) / len(kept) ** 0.5
    return kept.mean() - half, kept.mean() + half


def word(
    gap: Iterable[float], above: float | None = None, below: float | None = None, within: float | None = None
) -> str:
    """One of the three answers to "the mean of `gap`, one number a seed, is above 0".

    Or `above` a number, or `below` one, or less than `within` from 0.
    """
    claimed = _claimed(above, below, within)
    found = interval(gap)
    if found is None:
        return OPEN
    if claimed[0] < found[0] and found[1] < claimed[1]:
        return HOLDS
    return FAILS if found[1] < claimed[0] or claimed[1] < found[0] else OPEN


def verdict(
    claim: str,
    gap: Iterable[float],
    above: float | None = None,
    below: float | None = None,
    unit: str = "points",
    digits: int = 1,
    within: float | None = None,
) -> dict[str, object]:
    """A line of a table of verdicts: ``claim``, ``difference``, ``95 %``, ``seeds``, ``verdict``.

    The claim is that the mean of `gap` is above 0, or `above` a number, or `below` one, or less than `within` from 0.
    The difference is given as mean ± sd and `unit`, the interval of its mean in the same unit. Seeds without a number
    are left out, and numbers that are the same for all seeds count once.
    """
    try:
        answer = word(gap, above, below, within)
    except BadInput as error:
        raise BadInput(f"claim {claim!r}: {error}") from None
    kept = _numbers(gap)
    found = interval(kept)
    return {
        "claim": claim,
        "difference": f"{mean_sd(kept, digits)} {unit}".rstrip() if len(kept) else mean_sd(kept),
        "95 %": "[{}, {}]".format(*(f"{end:z.{digits}f}" for end in found)) if found else "–",
        "seeds": len(kept),
        "verdict": answer,
    }


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


def _claimed(above: float | None, below: float | None, within: float | None) -> tuple[float, float]:
    """Where the claim says that the mean lies: between these two, neither of them included."""
    given = {"above": above, "below": below, "within": within}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise BadInput(f"expected one of above, below and within, found {given}")
    if within is not None and not within > 0:
        raise BadInput(f"within: expected a margin above 0, found {within}")
    if within is not None:
        return -within, within
    return (above or 0.0, np.inf) if below is None else (-np.inf, below)


def _numbers(gap: Iterable[float]) -> pd.Series:
    """What there is of `gap`; once, if it is the same (up to rounding) for all seeds."""
    kept = pd.Series(list(gap), dtype="float64").dropna()
    return kept.iloc[:1] if len(kept) and np.allclose(kept, kept.iloc[0], rtol=1e-9, atol=1e-9) else kept
