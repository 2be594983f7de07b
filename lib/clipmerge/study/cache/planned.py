"""What would be computed: in the context `collecting`, the store notes the steps it is asked for and computes none.

Whoever asks for steps goes on to read what they leave. That is not there, so the asking itself ends (`Planned`).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from clipmerge.clip.compute import Compute
from clipmerge.study.cache.step import Step


class Planned(Exception):
    """Steps were noted in place of being computed."""


@dataclass(frozen=True)
class Asked:
    """The steps of one call of `store.build`, and how they are to be computed."""

    steps: tuple[Step, ...]
    compute: Compute


_asked: ContextVar[list[Asked] | None] = ContextVar("asked", default=None)


@contextmanager
def collecting() -> Iterator[list[Asked]]:
    """Collect what the store is asked for in this context."""
    asked: list[Asked] = []
    token = _asked.set(asked)
    try:
        yield asked
    finally:
        _asked.reset(token)


def going_on() -> bool:
    """Whether somebody is collecting."""
    return _asked.get() is not None


def note(steps: Iterable[Step], compute: Compute) -> None:
    """Note steps and end whoever asked for them, if somebody is collecting."""
    asked = _asked.get()
    if asked is not None:
        asked.append(Asked(tuple(steps), compute))
        raise Planned(f"{len(asked[-1].steps)} steps")
