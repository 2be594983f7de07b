"""What stands behind every figure and table: its numbers (csv), where they come from (json), and the gallery.

Files are *byte-stable*: what would not change is not rewritten, and nothing in them tells the time. The json names the
profile, seeds, model, data and library versions, and how long and how much memory it took. Those last two differ from
run to run, so they are those of the run that first wrote this content; a rerun that finds the same numbers keeps them.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from clipmerge import files
from clipmerge.book import notebooks
from clipmerge.book.run_record import Run
from clipmerge.errors import BadInput
from clipmerge.study import results

MEASURED = ("minutes", "peak_mb")


def tidy(rows: pd.DataFrame, id: str) -> pd.DataFrame:
    """Check the rows of an artefact: every number ours is finite, every row says what it is, none appears twice."""
    try:
        table = results.tidy(rows)
    except BadInput as error:
        raise BadInput(f"{id}: {error}") from None
    if table.empty:
        raise BadInput(f"{id}: expected at least one row, found none")
    for column in ("method", "task", "metric", "source"):
        if table[column].isna().any() or (table[column].astype(str) == "").any():
            raise BadInput(f"{id}: column {column}: expected a name in every row, found an empty one")
    ours = table[table.source == "ours"]
    if not np.isfinite(ours.value).all():
        where = ours[~np.isfinite(ours.value)].iloc[0]
        found = f"{where.value} for {where.method}, {where.task}, {where.metric}"
        raise BadInput(f"{id}: column value: expected finite numbers where source is ours, found {found}")
    keys = [column for column in table if column not in ("value", "n")]
    if table.duplicated(keys).any():
        twice = table[table.duplicated(keys)].iloc[0][keys].to_dict()
        raise BadInput(f"{id}: expected one number for each {', '.join(keys)}; found two for {twice}")
    return table


def csv(table: pd.DataFrame) -> bytes:
    """The rows as UTF-8 csv; eight significant digits, far below what differs between machines that agree."""
    values = [value if np.isnan(value) else float(f"{value:.8g}") for value in table.value]
    return table.assign(value=values).to_csv(index=False, lineterminator="\n").encode()


def save(id: str, rows: pd.DataFrame, run: Run, note: str, others: Mapping[str, bytes]) -> None:
    """Write ``<id>.csv``, the `others` (file name → bytes) and, last, the record ``<id>.json``; renew the gallery."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", id):
        raise BadInput(f"artefact id: expected small letters, digits and _, found {id!r}")
    table = tidy(rows, id)
    contents = {**others, f"{id}.csv": csv(table)}
    for name, content in contents.items():
        _write(run.out / name, content)
    ours = table[table.source == "ours"]
    record = {
        "id": id,
        "caption": note,
        "notebook": notebooks.maker(id),
        "seeds": sorted({int(seed) for seed in ours.seed.dropna()}),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(contents.items())},
        **run.record,
        **run.cost(),
    }
    path = run.out / f"{id}.json"
    if _unmeasured(notebooks.record(path)) != _unmeasured(record):
        files.write_json(path, record)
    path.touch()  # the runner sees by the date that this run did make it
    index(run.out)


def _write(path: Path, content: bytes) -> None:
    if path.exists() and path.read_bytes() == content:
        return
    with files.atomic(path) as partial:
        partial.write_bytes(content)


def _unmeasured(record: Mapping) -> dict:
    return {key: value for key, value in record.items() if key not in MEASURED}


def index(folder: Path) -> None:
    """Write ``INDEX.md``, the gallery of a folder: every artefact with picture or table, caption and notebook."""
    parts = [f"# Figures and tables: {folder.name} profile\n"]
    artefacts = [(path.stem, notebooks.record(path)) for path in folder.glob("*.json")]
    for id, record in sorted(artefacts, key=lambda artefact: (artefact[1].get("notebook", ""), artefact[0])):
        if record.get("id") != id:
            continue  # some other json file
        parts.append(f"## {id}\n")
        if (folder / f"{id}.png").exists():
            parts.append(f"![{id}]({id}.png)\n")
        if (folder / f"{id}.md").exists():
            parts.append((folder / f"{id}.md").read_text(encoding="utf8"))
        made = f"Made by `{record['notebook']}.ipynb`. " if record.get("notebook") else ""
        kinds = [kind for kind in ("pdf", "png", "csv", "json") if (folder / f"{id}.{kind}").exists()]
        links = " · ".join(f"[{kind}]({id}.{kind})" for kind in kinds)
        parts.append(f"{record['caption']}\n\n{made}{links}\n")
    _write(folder / "INDEX.md", "\n".join(parts).encode())
