"""Two runners side by side: while a notebook of one chapter draws, those of another compute, and no core idles.

Chapters that build on the same experts run in one lane, so that nothing is computed twice.

What it saves, at the smoke profile with two workers on two cores: a third with every step cached (141 s for 207 s).
From an empty cache about a tenth (some 345 s for 382 s), if single processes use their core in lanes as they do alone.
The machine was never quiet, so these are reckoned and not timed: processor seconds while one process wanted a core, and
half of those while two or more did.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence

from clipmerge.study.cache import slots

LANES = ("01", "2")  # first digits of notebooks: foundations and ConDU beside TIME; whatever comes later needs both
LEASH = "--until-input-ends"


def split(names: Iterable[str]) -> list[list[str]]:
    """The notebooks of each lane that has any."""
    names = list(names)
    lanes = ([name for name in names if name[:1] in digits] for digits in LANES)
    return [lane for lane in lanes if lane]


def run(lanes: Sequence[Sequence[str]], arguments: Sequence[str], at_once: int) -> int:
    """Run every lane in a runner of its own, called with `arguments`; returns the largest exit code.

    All lanes together compute `at_once` jobs at a time. Should this process end, or be interrupted, its runners end
    too: they watch a pipe that it holds.
    """
    runner = [sys.executable, "-m", "clipmerge.book.run", *arguments, LEASH]
    commands = [[*runner, "--only", *lane] for lane in lanes]
    env = os.environ | slots.environment(at_once)
    # a session of its own: an interrupt from the keyboard comes here alone, and is passed on once
    started = [subprocess.Popen(each, stdin=subprocess.PIPE, start_new_session=True, env=env) for each in commands]
    try:
        codes = [child.wait() for child in started]
        return max(code if code >= 0 else 1 for code in codes)  # killed by a signal: its negative
    finally:
        for child in started:
            child.stdin.close()
        for child in started:
            child.wait()


def leash() -> None:
    """Interrupt this process when its standard input ends, that is, when whoever started it has ended."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
