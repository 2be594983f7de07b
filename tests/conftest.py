"""What holds for all tests: toy scale, one thread, no network, nothing on the screen; and how nbval compares.

Sockets are off (pytest-socket, pyproject.toml). Kernels are processes of their own, which that cannot reach; for them
pip, the only thing here that ever downloads, is told to use no index.
"""

import os
import signal
import time
from collections.abc import Callable

import pytest
from hypothesis import settings

# Property tests say what holds, not how fast: a machine may be busy.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# A shell that runs the tests in the background makes them, and the processes they start, deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.update({"CLIPMERGE_PROFILE": "smoke", "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1"})
os.environ["PYTHONHASHSEED"] = "0"
os.environ["JUPYTER_PLATFORM_DIRS"] = "1"


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait for what another process does, however long that takes: only the limit of the whole test ends it."""

    def wait(happened: Callable[[], bool]) -> None:
        while not happened():
            time.sleep(0.02)

    return wait


class NotebookRules:
    """nbval compares what is said in text; pictures, html (which holds measured numbers) and stderr are skipped."""

    skip = ("text/html", "text/latex", "image/svg+xml", "application/pdf", "stderr")

    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        """Extend the list of what nbval does not compare."""
        if hasattr(collector, "skip_compare"):
            collector.skip_compare += self.skip


def pytest_configure(config: pytest.Config) -> None:
    """Hooks of this file see tests/ only; notebooks/ holds notebooks and nothing else, so register the rules."""
    config.pluginmanager.register(NotebookRules())
