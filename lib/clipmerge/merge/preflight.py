"""Before any work: do the files fit together, is there room on the disk and in memory, would anything be lost?

Only headers are read.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from clipmerge.errors import BadInput
from clipmerge.merge.folder import Stored
from clipmerge.merge.layout import check_layout, mergeable, size
from clipmerge.merge.pieces import BLOCK, chunk
from clipmerge.merge.registry import Number
from clipmerge.merge.sources import Source

MB = 1 << 20
COPIES = 8  # fp64 blocks that a recipe holds per model, intermediate results included
BYTES = 20  # per element of a chunk and model: what was read, its delta or fp64 copy, its mask


@dataclass(frozen=True)
class Plan:
    """What a run will read, write and need: bytes, and the memory (MB) it adds at most to what the process holds."""

    models: int
    parameters: int
    read_bytes: int
    write_bytes: int
    peak_mb: float


def check(
    base: Source,
    others: Sequence[Source],
    out: Path,
    write_bytes: int,
    threads: int,
    passes: int,
    memory_budget_mb: Number,
) -> Plan:
    """Refuse files that do not fit the base, a disk too full, a budget too small; else say what is ahead."""
    if threads < 1:
        raise BadInput(f"threads: expected a number from 1, found {threads}")
    for other in others:
        check_layout(base.layout, other.layout, other.label, mixed=True)
    models = 1 + len(others)
    read = sum(size(*entry) for entry in base.layout.values()) * models * passes
    working = threads * models * (BLOCK * 8 * COPIES + chunk(models) * BYTES)
    counters = (passes > 1) * 3 * threads * models * (1 << 16) * 8
    parameters = sum(prod(shape) for shape, _ in mergeable(base.layout).values())
    plan = Plan(models, parameters, read, write_bytes, (working + counters) / MB)
    if plan.peak_mb > memory_budget_mb:
        raise BadInput(
            f"memory_budget_mb: expected at least {plan.peak_mb:.0f} for this run, found {memory_budget_mb:g}"
        )
    room(out, write_bytes)
    return plan


def room(out: Path, wanted: int) -> None:
    """Refuse to start what the disk cannot hold."""
    place = next(folder for folder in [out.absolute(), *out.absolute().parents] if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < wanted:
        raise BadInput(f"{out}: expected {wanted / MB:.0f} MB of free disk, found {free / MB:.0f}")


def guard(out: str | Path, inputs: Iterable[Source | Stored | Path], force: bool, folder: bool = False) -> Path:
    """Refuse an output that would touch an input, and, unless forced, one that is there already."""
    out = Path(out)
    target = out.resolve()
    places = [place for model in inputs for place in ([model] if isinstance(model, Path) else model.places)]
    for place in map(Path.resolve, places):
        if target == place or place in target.parents or target in place.parents:
            raise BadInput(f"{out}: expected a place apart from all inputs, found that of {place}; inputs are kept")
    if not os.path.lexists(out):
        return out
    if out.is_dir() is not folder:
        raise BadInput(f"{out}: expected to write a {'folder' if folder else 'file'}, found the other there")
    if not force:
        raise BadInput(f"{out}: expected nothing there yet, found something; --force replaces it")
    return out


def workers(threads: int | None) -> int:
    """The number of threads: as asked for, or what OMP_NUM_THREADS says, or one a core."""
    return threads if threads is not None else int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
