"""Slots: how runners that work side by side share the cores of one machine.

Each has as many workers as there are cores, so that none idles while the other draws. Were all of them to compute at
once, they would push each other out of the caches: a job holds a slot while it runs, and there is one slot a core.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from filelock import FileLock, Timeout

from clipmerge import paths

VARIABLE = "CLIPMERGE_SLOTS"  # in the environment: "2:folder", how many and where; whoever finds none need not wait
PATIENCE = 0.02  # seconds between two looks for a free slot
_inside = ContextVar("inside a slot", default=False)


def environment(count: int) -> dict[str, str]:
    """What to add to the environment of processes that are to share `count` slots."""
    folder = paths.cache("slots").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return {VARIABLE: f"{count}:{folder}"}


def inside() -> bool:
    """Whether the caller runs in a slot: what it starts and waits for needs no other."""
    return _inside.get()


@contextmanager
def hold() -> Iterator[None]:
    """Wait for a free slot and hold it. The end of a process, however it comes, frees its slot."""
    count, _, folder = os.environ.get(VARIABLE, "0:").partition(":")
    locks = [FileLock(Path(folder, f"{number}.lock")) for number in range(int(count))]
    while locks and not any(_taken(lock) for lock in locks):
        time.sleep(PATIENCE)
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)
        for lock in locks:
            lock.release()  # does nothing to those that others hold


def _taken(lock: FileLock) -> bool:
    """Take a lock, if nobody holds it."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
