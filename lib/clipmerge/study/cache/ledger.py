"""What the steps met by this process cost, so that nobody has to empty a cache to learn what a run from nothing takes.

Every step records its seconds and memory when it is computed. Met are the steps asked for and all that they need,
whether they were cached or not.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

from clipmerge import files

if TYPE_CHECKING:  # the notebook runner imports this module, but not torch
    from clipmerge.study.cache.step import Step

FILE = "CLIPMERGE_LEDGER"  # names a file to keep up to date with `cost`: set by the notebook runner for its kernels
_met: set[Path] = set()
_costs: dict[Path, tuple[str, dict[str, float]]] = {}
_spent = {"waited": 0.0, "busy": 0.0}


def begin() -> None:
    """Forget what has been met: a run starts here (again, where a reader runs a notebook's first cell twice)."""
    _met.clear()
    _costs.clear()
    _spent.update(waited=0.0, busy=0.0)


def meet(steps: "Iterable[Step]") -> None:
    """Note `steps` and all that they need."""
    waiting: list[Step | Path] = list(steps)
    while waiting:
        value = waiting.pop()
        folder = getattr(value, "folder", value)
        if folder not in _met:
            _met.add(folder)
            waiting += getattr(value, "inputs", {}).values()  # files, and folders given as such, have none


@contextmanager
def computing() -> Iterator[None]:
    """Count the time in this context as spent on computing steps, and bring the ledger's file up to date."""
    start, processor = perf_counter(), process_time()
    try:
        yield
    finally:
        _spent["waited"] += perf_counter() - start
        _spent["busy"] += process_time() - processor
        if os.environ.get(FILE):
            files.write_json(Path(os.environ[FILE]), cost())


def cost() -> dict[str, Any]:
    """``waited``: seconds this process spent on computing steps; ``busy``: its own processor's share of them;
    ``steps``: seconds and peak_mb of each step met.

    A step counts with the time of the run that computed it. On the CPU it is a single thread, so the processor's time
    is what it takes on a core of its own, however busy the machine was. Steps that are not in the cache (those behind
    a cached one need not be) count nothing.
    """
    from clipmerge.study.cache.step import DONE

    for folder in _met - _costs.keys():
        if (folder / DONE).is_file():
            done = json.loads((folder / DONE).read_text(encoding="utf8"))
            alone = done["device"] == "cpu" and "cpu_seconds" in done
            seconds = min(done["seconds"], done["cpu_seconds"]) if alone else done["seconds"]
            about = {"seconds": seconds, "peak_mb": done["peak_memory_mb"]}
            _costs[folder] = (f"{done['name']}/{folder.name}", about)
    return {**_spent, "steps": dict(sorted(_costs.values(), key=itemgetter(0)))}


def minutes(own: float, steps: Iterable[Mapping[str, float]], workers: int) -> float:
    """Minutes a run takes from an empty cache: its `own` seconds, and those of its steps shared by busy `workers`."""
    return (own + sum(step["seconds"] for step in steps) / workers) / 60
