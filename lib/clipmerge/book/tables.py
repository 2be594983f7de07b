"""Tables that put ours beside what was reported, each labelled with where it comes from."""

from collections.abc import Iterable

import pandas as pd
from pandas.io.formats.style import Styler

from clipmerge.book import records
from clipmerge.book.run_record import Run
from clipmerge.errors import BadInput


def mean_sd(values: Iterable[float], digits: int = 1) -> str:
    """``"71.3 ± 0.4"`` (sample standard deviation) of several seeds, ``"71.3"`` of one number, ``"–"`` of none."""
    kept = pd.Series(list(values), dtype="float64").dropna()
    if kept.empty:
        return "–"
    mean = f"{kept.mean():.{digits}f}"
    return mean if len(kept) == 1 else f"{mean} ± {kept.std(ddof=1):.{digits}f}"


def beside(rows: pd.DataFrame, index: str = "method", columns: str = "metric", digits: int = 1) -> pd.DataFrame:
    """Tidy rows → text table: one row for each `index`, columns (source, `columns`), ours first.

    A cell is mean ± sd over seeds. Rows that differ in anything else would be averaged silently, so that is refused:
    filter `rows` first, for example to ``task == "mean"``.
    """
    keys = ["source", index, columns]
    again = rows[rows.duplicated([*keys, "seed"], keep=False)]
    if not again.empty:
        cell = again.iloc[0][keys].to_dict()
        raise BadInput(f"table rows: expected one number a seed for each {', '.join(keys)}; found several for {cell}")
    cells = rows.groupby(keys, sort=False)["value"].agg(lambda values: mean_sd(values, digits))
    table = cells.unstack(["source", columns])
    sources = sorted(rows.source.unique(), key=lambda source: source != "ours")
    wanted = [(source, metric) for source in sources for metric in rows[columns].unique()]
    table = table.reindex(index=rows[index].unique(), columns=[pair for pair in wanted if pair in table.columns])
    return table.rename_axis(index=None, columns=[None, None]).fillna("–")


def caption(what: str, rows: pd.DataFrame, model: str, data: str) -> str:
    """``what`` with all a reader needs to judge the numbers: model, data, seeds, and how many test images."""
    ours = rows[rows.source == "ours"]
    seeds = ", ".join(str(seed) for seed in sorted(ours.seed.dropna().unique()))
    parts = [f"{what.rstrip('.')}. Ours: {model} on {data}", f"seeds {seeds}" if seeds else ""]
    sizes = ours.n.dropna()
    if not sizes.empty:
        low, high = int(sizes.min()), int(sizes.max())
        parts.append(f"n = {low:,} test images" if low == high else f"n = {low:,}–{high:,} test images a number")
    return ", ".join(part for part in parts if part) + "."


def show(table: pd.DataFrame, id: str, note: str = "") -> Styler:
    """A table to look at in a notebook: caption on top, numbers to the right. `id` keeps its html the same each run."""
    rules = [
        {"selector": "caption", "props": "caption-side: top; text-align: left; padding-bottom: 6px"},
        {"selector": "th.col_heading", "props": "text-align: right"},
        {"selector": "th.row_heading", "props": "text-align: left"},
        {"selector": "td", "props": "text-align: right; white-space: nowrap"},
    ]
    return table.style.set_uuid(id).set_caption(note).set_table_styles(rules).format(na_rep="–")


def markdown(table: pd.DataFrame) -> str:
    """The table in Markdown; two header levels become ``"metric (source)"``."""
    flat = table.copy()
    if flat.columns.nlevels == 2:
        flat.columns = [f"{metric} ({source})" for source, metric in flat.columns]
    align = ["left", *["right"] * flat.shape[1]]
    return flat.to_markdown(disable_numparse=True, colalign=align) + "\n"


def save(id: str, rows: pd.DataFrame, run: Run, note: str = "", pivot: pd.DataFrame | None = None) -> Styler:
    """Write ``<id>.csv .json .md`` into ``run.out`` and return the table to look at.

    `pivot` is the text table that is shown; by default ours beside reported, methods down and metrics across.
    """
    table = beside(records.tidy(rows, id)) if pivot is None else pivot
    records.save(id, rows, run, note, {f"{id}.md": markdown(table).encode()})
    return show(table, id, note)
