"""The ledger of claims: verdict, effect, interval and n of each, computed from the csv of artefacts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path

import numpy as np
import pandas as pd

from clipmerge import paths
from clipmerge.study import results
from clipmerge.study.claims import evidence, rows
from clipmerge.study.claims.manifest import Claim

LAPTOP, OVERNIGHT = "laptop", "overnight"


@dataclass(frozen=True)
class Judged:
    """What became of a claim, by the numbers of a profile; what there is none of is nan.

    `effect` is the mean over seeds, `low` and `high` its 95 % interval, in the claim's unit; for kind ``wider`` `p`
    stands in place of the interval. `n`: test images. `why` says what is wanting where it is not decidable.
    """

    claim: Claim
    profile: str
    verdict: str
    why: str = ""
    effect: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan
    seeds: int = 0
    n: int = 0
    chosen: str = ""


def every(claims: Iterable[Claim], out: Path, profile: str, overnight: Path | None = None) -> list[Judged]:
    """Judge claims by the csv in `out`, which `profile` wrote; what is for overnight to decide by `overnight`'s.

    Where that folder has none, the effect is still read from `out`, but decides nothing: the claim says beforehand that
    the smaller scale is too small.
    """
    overnight = overnight or paths.figures(OVERNIGHT)
    return [_judged(claim, out, profile, overnight) for claim in claims]


def place(claim: Claim) -> tuple[float, float]:
    """The numbers between which the claim says its effect lies."""
    if claim.kind == "wider":
        return 0.0, inf
    given = {"greater": "above", "less": "below", "equal": "within"}[claim.kind]
    return evidence.claimed(**{given: claim.margin})


def tidy(judged: Sequence[Judged]) -> pd.DataFrame:
    """One number a row, in the columns of every artefact: ``method`` is the claim's id, ``task`` its part.

    Metrics: ``effect``, ``low``, ``high``, ``p`` as far as there are any, and ``seeds`` always.
    """
    found = []
    for one in judged:
        measured = {"effect": one.effect, "low": one.low, "high": one.high, "p": one.p, "seeds": float(one.seeds)}
        about = {"paper": one.claim.paper, "verdict": one.verdict, "by": one.profile}
        about["artefact"] = one.claim.first.artefact
        for metric, value in measured.items():
            if isfinite(value):
                fixed = {"method": one.claim.id, "metric": metric, "seed": None, "n": one.n or None, **about}
                found.append(results.rows({one.claim.part or "all": value}, **fixed))
    return pd.concat(found, ignore_index=True)


def _judged(claim: Claim, out: Path, profile: str, overnight: Path) -> Judged:
    """The claim judged by whichever of the two folders may decide it."""
    names = sorted({side.artefact for side in claim.sides})
    theirs = claim.decides == OVERNIGHT and all((overnight / f"{name}.csv").exists() for name in names)
    found = _read(claim, names, *((overnight, OVERNIGHT) if theirs else (out, profile)))
    if claim.decides in (found.profile, LAPTOP):
        return found
    why = f"left to the {OVERNIGHT} profile: too small a scale, or too few seeds, here"
    return replace(found, verdict=evidence.OPEN, why=why)


def _read(claim: Claim, names: Sequence[str], folder: Path, by: str) -> Judged:
    """The claim judged by the csv in one folder; without the rows it needs it is not decidable."""
    tables = {name: rows.read(folder, name) for name in names}
    absent = [name for name in names if tables[name] is None]
    if absent:
        return Judged(claim, by, evidence.OPEN, f"the {by} profile has no {' and no '.join(absent)}")
    if by != LAPTOP:  # which has every column; a smaller profile writes fewer
        thin = [side.artefact for side in claim.sides if side.where.keys() - set(tables[side.artefact])]
        if thin:
            return Judged(claim, by, evidence.OPEN, f"the {by} profile has no such rows in {thin[0]}")
    empty = [side.artefact for side in claim.sides if rows.select(tables[side.artefact], side.where, claim.name).empty]
    if empty:
        return Judged(claim, by, evidence.OPEN, f"the {by} profile has no such rows in {empty[0]}")
    return _wider(claim, tables, by) if claim.kind == "wider" else _gap(claim, tables, by)


def _gap(claim: Claim, tables: dict[str, pd.DataFrame], by: str) -> Judged:
    """A claim on where a mean lies."""
    gap = rows.gap(claim, tables)
    kept = evidence.numbers(gap.values)
    found = evidence.interval(kept)
    if claim.once and len(kept) == 1:
        found = kept.iloc[0], kept.iloc[0]
    if found:
        found = -inf if gap.open_below else found[0], inf if gap.open_above else found[1]
    verdict = evidence.decide(found, place(claim))
    low, high = found or (np.nan, np.nan)
    return Judged(
        claim,
        by,
        verdict,
        why=_why(verdict, kept, gap),
        effect=kept.mean() if len(kept) else np.nan,
        low=low,
        high=high,
        seeds=len(kept),
        n=rows.images(tables[claim.first.artefact], claim.first.where, claim.name),
        chosen=gap.chosen,
    )


def _why(verdict: str, kept: pd.Series, gap: rows.Gap) -> str:
    """What is wanting for a decision."""
    if verdict != evidence.OPEN:
        return ""
    if not len(kept):
        return "too few seeds have all the numbers"
    if len(kept) < 2:
        return "one number: one seed, or the same for all"
    if gap.open_above or gap.open_below:
        return "some candidates have fewer seeds than others"
    return "the interval reaches across the bound"


def _wider(claim: Claim, tables: dict[str, pd.DataFrame], by: str) -> Judged:
    """A claim on which of two families spreads more."""
    families = [rows.family(claim, side, tables[side.artefact]) for side in claim.sides]
    seeds = families[0].columns.intersection(families[1].columns)
    n = rows.images(tables[claim.first.artefact], claim.first.where, claim.name)
    found = evidence.wider([family[seeds].dropna().to_numpy(dtype="float64") for family in families])
    if found is None:
        return Judged(claim, by, evidence.OPEN, "a family has fewer than two members", seeds=len(seeds), n=n)
    effect, p = found[0].mean(), found[1]
    verdict = evidence.by_p(effect, p)
    why = "so few members, dealt out at random, differ as much" if verdict == evidence.OPEN else ""
    return Judged(claim, by, verdict, why, effect=effect, p=p, seeds=len(seeds), n=n)
