"""One way to show progress, which knows where it is: terminal, live notebook, or a log that nobody watches.

Progress widgets stick or leave dead output in stored notebooks, so none are used: a terminal gets a bar, a live
notebook one printed line every tenth of the way, and papermill, continuous integration and redirected output nothing.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
QUIET = "CLIPMERGE_QUIET"  # set to anything by the notebook runner and by the tests


def place() -> str:
    """Where the output goes: ``"silent"``, ``"terminal"`` or ``"notebook"``."""
    if os.environ.get(QUIET) or os.environ.get("CI"):
        return "silent"
    if "ipykernel" in sys.modules:  # a kernel's stderr is no terminal, but somebody reads it
        return "notebook"
    return "terminal" if sys.stderr.isatty() else "silent"


def progress(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` unchanged while showing how far along they are.

    `total` is needed only where `items` has no length; without either a notebook shows nothing.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    where = place()
    if where == "terminal":
        yield from tqdm(items, desc=label, total=total, file=sys.stderr, leave=False)
    elif where == "notebook" and total:
        yield from _tenths(items, label, total)
    else:
        yield from items


def _tenths(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    start, shown = time.perf_counter(), 0
    for done, item in enumerate(items, start=1):
        yield item
        tenth = 10 * done // total
        if tenth > shown:
            shown = tenth
            print(f"{label}: {done} of {total} ({time.perf_counter() - start:.0f} s)", flush=True)
