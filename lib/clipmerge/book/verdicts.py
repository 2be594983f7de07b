"""What became of a claim: one rule for every notebook.

A claim is about the mean of a paired difference, one number a seed, and a threshold. It *holds* if the mean is beyond
the threshold by more than two standard errors, it *does not hold* if it is on the other side by as much. Anything
between, and anything with fewer than two seeds, is *not decidable*: no claim is refuted by noise or for want of seeds.
"""

from collections.abc import Iterable

import pandas as pd

from clipmerge.book.tables import mean_sd
from clipmerge.errors import BadInput

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decidable"


def word(gap: Iterable[float], above: float = 0.0) -> str:
    """One of the three answers to "the mean of `gap`, one number a seed, is above a threshold"."""
    kept = _numbers(gap)
    if len(kept) < 2:
        return OPEN
    beyond, error = kept.mean() - above, kept.std(ddof=1) / len(kept) ** 0.5
    if abs(beyond) <= 2 * error:
        return OPEN
    return HOLDS if beyond > 0 else FAILS


def verdict(
    claim: str,
    gap: Iterable[float],
    above: float | None = None,
    below: float | None = None,
    unit: str = "points",
    digits: int = 1,
) -> dict[str, object]:
    """A line of a table of verdicts: ``claim``, ``difference`` (mean ± sd and `unit`), ``seeds``, ``verdict``.

    The claim is that the mean of `gap` is above 0, or `above` a number, or `below` one. Seeds without a number are left
    out.
    """
    if above is not None and below is not None:
        raise BadInput(f"claim {claim!r}: expected a threshold above or below, found both, {above} and {below}")
    kept = _numbers(gap)
    answer = word(kept, above or 0.0) if below is None else word(-kept, -below)
    difference = f"{mean_sd(kept, digits)} {unit}".rstrip() if len(kept) else mean_sd(kept)
    return {"claim": claim, "difference": difference, "seeds": len(kept), "verdict": answer}


def _numbers(gap: Iterable[float]) -> pd.Series:
    return pd.Series(list(gap), dtype="float64").dropna()
