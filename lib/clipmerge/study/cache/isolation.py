"""What surrounds a running step: random state of its own, SIGTERM as an exception, a meter of memory."""

import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType

import numpy as np
import psutil
import torch

_checkpoint: ContextVar[Path | None] = ContextVar("checkpoint", default=None)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed every global generator, and put each back as it was.

    A step then gives the same result wherever it runs, and whether it ran at all cannot be told from the caller's next
    random number.
    """
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (scikit-learn draws from it)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack (exit code 143), so that half-made folders are removed as on Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def resumable(path: Path) -> Iterator[None]:
    """A step that trains in this context may keep its state in `path`; the file goes when the step has ended well."""
    token = _checkpoint.set(path)
    try:
        yield
    finally:
        _checkpoint.reset(token)
    path.unlink(missing_ok=True)


def checkpoint() -> Path | None:
    """Where a step may keep the state of its one training, to go on from should its process be lost."""
    return _checkpoint.get()


@contextmanager
def alone(seed: int) -> Iterator[None]:
    """Both: what surrounds every step."""
    with terminable(), seeded(seed):
        yield


class PeakMemory:
    """The largest resident memory of this process while the context was open: ``.mb``, in units of 10⁶ bytes.

    Sampled, because the operating system's own high-water mark never comes down again in a process that lives on.
    """

    def __init__(self, interval: float = 0.05) -> None:
        self.mb = 0.0
        self._interval = interval
        self._done = threading.Event()
        self._process = psutil.Process()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _sample(self) -> None:
        self.mb = max(self.mb, self._process.memory_info().rss / 1e6)

    def _watch(self) -> None:
        while not self._done.wait(self._interval):
            self._sample()

    def __enter__(self) -> "PeakMemory":
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._sample()
