"""The numbers a claim speaks of: from the csv of artefacts to one number a seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clipmerge.errors import BadInput
from clipmerge.study import results
from clipmerge.study.claims import evidence
from clipmerge.study.claims.manifest import Claim, Side


@dataclass(frozen=True)
class Gap:
    """What the two sides of a claim differ by, one number a seed.

    Where the best of several candidates was wanted and some lack seeds, the others decide; the true best may then be
    larger (`open_above`), the true worst smaller (`open_below`). `chosen` names who was best or worst.
    """

    values: pd.Series
    open_above: bool = False
    open_below: bool = False
    chosen: str = ""


def read(folder: Path, artefact: str) -> pd.DataFrame | None:
    """Our rows of an artefact, everything but ``value`` as text; None if there is no such csv."""
    path = folder / f"{artefact}.csv"
    if not path.exists():
        return None
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [column for column in results.COLUMNS if column not in table]
    if missing:
        raise BadInput(f"{path}: expected the columns {', '.join(results.COLUMNS)}, found no {', '.join(missing)}")
    table = table[table.source == "ours"]
    return table.assign(value=pd.to_numeric(table.value))


def select(table: pd.DataFrame, where: Mapping[str, object], what: str) -> pd.DataFrame:
    """The rows that match every selector; `what` names the claim in an error."""
    kept = np.ones(len(table), dtype=bool)
    for column, wanted in where.items():
        if column not in table:
            raise BadInput(f"{what}: expected a column of its artefact, one of {', '.join(table)}; found {column!r}")
        found = table[column].map(_text)
        unwanted = isinstance(wanted, Mapping)
        named = wanted["not"] if unwanted else wanted
        kept &= found.isin([_text(one) for one in (named if isinstance(named, list) else [named])]) != unwanted
    return table[kept]


def images(table: pd.DataFrame, where: Mapping[str, object], what: str) -> int:
    """How many test images stand behind the rows of a side: those of all its tasks together, 0 if none."""
    where = {key: value for key, value in where.items() if key != "task" or value != "mean"}
    sized = select(table, where, what)
    sizes = pd.to_numeric(sized[sized.n != ""].set_index("task").n).groupby(level=0).max()
    by_task = sizes.drop("mean", errors="ignore")
    return int((by_task if len(by_task) else sizes).sum())


def gap(claim: Claim, tables: Mapping[str, pd.DataFrame]) -> Gap:
    """What the claim compares, reduced to one number a seed; `tables` has an artefact's rows by its name."""
    columns = [column for some in claim.take.values() for column in some]
    frames = [_numbers(claim, side, tables[side.artefact], columns) for side in claim.sides]
    free = [column for column in columns if any(column in frame for frame in frames)]
    if free != columns:
        raise BadInput(f"{claim.name}: take: expected columns that its rows differ in, found {', '.join(columns)}")
    found = frames[0] if len(frames) == 1 else _compared(claim, *frames)
    above, below, chosen = False, False, ""
    for how, some in claim.take.items():
        found, partial, name = _reduced(claim, found, how, list(some))
        above |= partial and how != "worst"
        below |= partial and how == "worst"
        chosen = name or chosen
    return Gap(found.set_index("seed").value.sort_index(), above, below, chosen)


def family(claim: Claim, side: Side, table: pd.DataFrame) -> pd.DataFrame:
    """Scores [member, seed] of a side of a claim of kind ``wider``."""
    rows = select(table, side.where, claim.name)
    _one_each(claim, rows, ["seed", side.members])
    return rows.pivot(index=side.members, columns="seed", values="value")


def _numbers(claim: Claim, side: Side, table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Columns seed, value, and those of `columns` that this side leaves open and its rows fill."""
    rows = select(table, side.where, claim.name)
    absent = [column for column in columns if column not in table]
    if absent and len(claim.sides) == 1:
        raise BadInput(f"{claim.name}: take: expected columns of {side.artefact}, found {', '.join(absent)}")
    fixed = [key for key, value in side.where.items() if not isinstance(value, list | Mapping)]
    free = [column for column in columns if column in table and column not in fixed and (rows[column] != "").any()]
    _one_each(claim, rows, ["seed", *free])
    return rows[["seed", *free, "value"]]


def _one_each(claim: Claim, rows: pd.DataFrame, keys: list[str]) -> None:
    again = rows[rows.duplicated(keys)]
    if len(again):
        found = again.iloc[0][["method", "task", "metric", *keys]].to_dict()
        raise BadInput(f"{claim.name}: expected one row for each {', '.join(keys)}, found several for {found}")


def _compared(claim: Claim, first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """First minus second, or first over second, wherever both have a number; what only one varies in is kept."""
    shared = [column for column in first if column in second and column != "value"]
    both = first.merge(second, on=shared, suffixes=("", "_second"))
    other = both.pop("value_second")
    return both.assign(value=both.value / other if claim.compare == "ratio" else both.value - other)


def _reduced(claim: Claim, found: pd.DataFrame, how: str, over: list[str]) -> tuple[pd.DataFrame, bool, str]:
    """`found` without the columns `over`: their mean, best, …, for each value of the others.

    Also whether candidates were left out, and the name of the one taken.
    """
    rest = [column for column in found if column not in ("seed", "value", *over)]
    parts, partial, name = [], False, ""
    for key, part in found.groupby(rest, sort=False) if rest else [((), found)]:
        of = part[over].agg(" on ".join, axis=1) if len(over) > 1 else part[over[0]]
        wide = part.assign(of=of).pivot(index="seed", columns="of", values="value")[list(dict.fromkeys(of))]
        if how in EXTREMES:
            wide, some = _candidates(wide, _listed(claim, over))
            partial |= some
        values = TAKES[how](wide).dropna()
        name = str(values.name) if how in ("best", "worst") else name
        fixed = dict(zip(rest, key, strict=True))
        parts.append(values.rename("value").rename_axis("seed").reset_index().assign(**fixed))
    return pd.concat(parts, ignore_index=True), partial, name


def _listed(claim: Claim, over: list[str]) -> int:
    """How many candidates the claim lists by name, if it does."""
    lists = [side.where[over[0]] for side in claim.sides if isinstance(side.where.get(over[0]), list)]
    return len(lists[0]) if lists and len(over) == 1 else 0


def _candidates(wide: pd.DataFrame, listed: int) -> tuple[pd.DataFrame, bool]:
    """Those among which the best is chosen, and whether others were left out.

    All of them on the seeds they share, if these are two or more; otherwise those that have the most seeds.
    """
    if len(wide.dropna()) >= 2:
        return wide.dropna(), wide.shape[1] < listed
    seeds = wide.notna().sum()
    most = wide.loc[:, seeds == seeds.max()]
    return most, most.shape[1] < max(listed, wide.shape[1])


def _growth(wide: pd.DataFrame) -> pd.Series:
    """Least-squares slope per step from one column to the next."""
    whole = _in_order(wide).dropna()
    if whole.shape[1] < 2 or whole.empty:
        return pd.Series(np.nan, index=wide.index)
    return pd.Series(np.polyfit(np.arange(whole.shape[1]), whole.to_numpy().T, 1)[0], index=whole.index)


def _in_order(wide: pd.DataFrame) -> pd.DataFrame:
    """Columns by size where they are numbers, otherwise as they come."""
    sizes = pd.to_numeric(pd.Series(wide.columns), errors="coerce")
    return wide if sizes.isna().any() else wide.iloc[:, np.argsort(sizes.to_numpy(), kind="stable")]


EXTREMES = ("best", "worst", "range")
TAKES: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = {
    "mean": lambda wide: wide.dropna().mean(axis=1),
    "last": lambda wide: _in_order(wide).iloc[:, -1],
    "growth": _growth,
    "best": evidence.best_elsewhere,
    "worst": lambda wide: -evidence.best_elsewhere(-wide),
    "range": lambda wide: evidence.best_elsewhere(wide) + evidence.best_elsewhere(-wide),
}


def _text(value: object) -> str:
    """How a selector and a cell of a csv are compared: 1, 1.0 and "1.0" are the same."""
    try:
        return f"{float(value):g}" if not isinstance(value, bool) else str(value)
    except ValueError:
        return str(value)
