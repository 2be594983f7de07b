"""What running the notebooks takes, from the runner's records: the box in each notebook and the table of the README.

Most runs find a warm cache, so minutes from an empty one are computed: what a notebook spent on anything but steps, and
the recorded time of every step it needs, divided by the workers that share them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from clipmerge.study.cache import ledger

Record = Mapping[str, Any]


def minutes(record: Record, without: Iterable[str] = ()) -> float:
    """Minutes from an empty cache, but for the steps `without`."""
    steps = [cost for name, cost in record["steps"].items() if name not in set(without)]
    return ledger.minutes(record["own_seconds"], steps, record["workers"])


def memory(record: Record) -> float:
    """Memory in MB: what was measured or, if more, the notebook beside as many of its largest step as run at once."""
    largest = max((step["peak_mb"] for step in record["steps"].values()), default=0)
    return float(max(record["peak_mb"], record["notebook_mb"] + record["workers"] * largest))


def box(record: Record | None) -> str:
    """The cost box of one notebook (None: not measured yet)."""
    if record is None:
        return "> **Cost:** not measured yet."
    cost = f"{minutes(record):.1f} minutes from an empty cache, {memory(record):.0f} MB of memory"
    return f"> **Cost** of this notebook ({record['profile']} profile, {record['machine']}): {cost}."


def table(records: Mapping[str, Record]) -> str:
    """The README's table; a step that several notebooks need counts for the first, so that the column adds up."""
    lines, counted, total = ["| notebook | minutes, empty cache | memory |", "|---|--:|--:|"], set(), 0.0
    for name, record in records.items():
        alone = minutes(record, without=counted)
        counted |= record["steps"].keys()
        total += alone
        lines.append(f"| {name} | {alone:.1f} | {memory(record) / 1000:.1f} GB |")
    first = next(iter(records.values()))
    how = f"Computed from the recorded time of every step, shared by {first['workers']} workers"
    return "\n".join(
        [
            *lines,
            f"| **all** | **{total:.0f}** | |",
            "",
            f"{how}, at the {first['profile']} profile ({first['machine']}).",
            "A step that several notebooks need counts for the first of them; run alone, a later one takes longer.",
        ]
    )
