"""Which of two families of settings spreads more, as a line of a table; see `clipmerge.study.claims.evidence`."""

import pandas as pd

from clipmerge.book.tables import mean_sd
from clipmerge.errors import BadInput
from clipmerge.study.claims import evidence


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
    found = evidence.wider([family[seeds].dropna().to_numpy(dtype="float64") for family in (first, second)])
    line = {"claim": claim, "difference": "–", "95 %": "–", "seeds": len(seeds), "verdict": evidence.OPEN}
    if found is None:
        return line
    gap, p = found
    line["difference"] = f"{mean_sd(gap, digits)} {unit}".rstrip()
    line["95 %"] = f"p = {p:.3f}"
    line["verdict"] = evidence.by_p(gap.mean(), p)
    return line
