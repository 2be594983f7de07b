"""One notebook in a kernel of its own: quiet, measured, and ended in peace.

Slow to import (papermill), so the runner does it only when there is something to run.
"""

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import papermill
import psutil
from jupyter_client.manager import AsyncKernelManager
from traitlets.config import Config

from clipmerge.study.cache import ledger

LEDGER = "steps.json"
EVERY = 1.0  # seconds between two looks at a kernel; a look takes some ten milliseconds


@dataclass(frozen=True)
class Spent:
    """What a run has cost: steps, seconds waited for them, processor seconds of the kernel for anything else, peak MB
    of the kernel and of all it started too."""

    steps: dict
    waited: float
    computed: float
    notebook_mb: float
    peak_mb: float


class Meter:
    """What a kernel takes: its largest memory (`notebook`, MB) and its seconds of computing (`processor`), and the
    largest memory together with all it has started (`everything`, MB).

    The last look, right before the kernel ends, is what makes the numbers of a short notebook honest. Looks in between
    are for processes that the kernel starts, which may be gone by then.
    """

    def __init__(self) -> None:
        self.notebook = self.everything = self.processor = 0.0
        self._kernel: psutil.Process | None = None
        self._lock = threading.Lock()

    def begin(self, pid: int) -> None:
        """The kernel has started."""
        self._kernel = psutil.Process(pid)

    def end(self) -> None:
        """The kernel is about to end: look at it once more."""
        self.look()
        self._kernel = None

    def look(self) -> None:
        """Note what the kernel takes now; does nothing while there is none."""
        with self._lock, suppress(psutil.Error):  # it has just ended
            if self._kernel is None:
                return
            own = _memory(self._kernel)
            self.processor = sum(self._kernel.cpu_times()[:2])  # its own, not its children's
            self.notebook = max(self.notebook, own, _high_water(self._kernel))
            others = sum(map(_memory, self._kernel.children(recursive=True)))
            self.everything = max(self.everything, self.notebook, own + others)


class Manager(AsyncKernelManager):
    """Interrupts a kernel only if there is something to interrupt, and has a meter look at it before it ends.

    jupyter_client interrupts every kernel that is to end. One that has just answered its last request may still be
    leaving its handler; the interrupt hits that, and it complains: "KeyboardInterrupt caught in kernel".
    """

    # both of the class, because papermill keeps its manager to itself
    busy = False  # whether a cell is running
    meter: Meter

    @classmethod
    def begin(cls, **_: object) -> None:
        """A cell begins."""
        cls.busy = True

    @classmethod
    def end(cls, **_: object) -> None:
        """It has ended, well or not."""
        cls.busy = False

    async def start_kernel(self, **options: object) -> None:
        """Start the kernel, and the meter."""
        await super().start_kernel(**options)
        self.meter.begin(self.provisioner.pid)

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """Ask the kernel to end, then make it; what it has started ends with it."""
        self.meter.end()
        if now or self.busy:
            await super().shutdown_kernel(now=now, restart=restart)
        else:
            await self.request_shutdown(restart=restart)
            await self.finish_shutdown(restart=restart)
            await self.cleanup_resources(restart=restart)


def execute(notebook: Path, output: Path, parameters: Mapping[str, object]) -> Spent:
    """Execute `notebook` with `parameters` into `output`; raises what papermill raises."""
    with _surroundings() as folder, _watched() as meter:
        _papermill(notebook, output, parameters, folder)
        said = folder / LEDGER  # a notebook without steps says nothing
        nothing = {"waited": 0.0, "busy": 0.0, "steps": {}}
        spent = json.loads(said.read_text(encoding="utf8")) if said.exists() else nothing
    computed = meter.processor - spent["busy"]
    return Spent(spent["steps"], spent["waited"], computed, meter.notebook, meter.everything)


def _papermill(notebook: Path, output: Path, parameters: Mapping[str, object], folder: Path) -> None:
    """Execute in a kernel of this environment, whose connection file and sockets go to `folder`."""
    connection = {"connection_file": str(folder / "kernel.json")}
    if os.name != "nt":  # Unix sockets instead of TCP ports: kernels started at the same time race for ports
        connection |= {"transport": "ipc", "ip": str(folder / "kernel")}
    Manager.end()
    papermill.execute_notebook(
        str(notebook),
        str(output),
        dict(parameters),
        kernel_name="python3",
        language="python",
        progress_bar=False,
        iopub_timeout=60,
        kernel_manager_class=Manager,
        on_cell_execute=Manager.begin,
        on_cell_executed=Manager.end,
        config=Config({"KernelManager": connection}),
    )


@contextmanager
def _surroundings() -> Iterator[Path]:
    """Quiet, one thread, and a folder for ledger and sockets, which is short: names of sockets may not be long."""
    before = dict(os.environ)
    runtime = tempfile.mkdtemp(prefix="clipmerge-")
    os.environ.update({"JUPYTER_RUNTIME_DIR": runtime, ledger.FILE: str(Path(runtime, LEDGER))})
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        yield Path(runtime)
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(runtime, ignore_errors=True)


@contextmanager
def _watched() -> Iterator[Meter]:
    """A meter for the next kernel, which looks at it now and then."""
    meter, done = Meter(), threading.Event()

    def watch() -> None:
        while not done.wait(EVERY):
            meter.look()

    Manager.meter = meter
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield meter
    finally:
        done.set()
        thread.join()


def _memory(process: psutil.Process) -> float:
    """Resident memory (MB); nothing of a process that has just ended."""
    with suppress(psutil.Error):
        return process.memory_info().rss / 1e6
    return 0.0


def _high_water(process: psutil.Process) -> float:
    """The most resident memory (MB) a process has had, as Linux and Windows count it; 0 where nobody counts (macOS)."""
    with suppress(OSError, IndexError):  # no such file, or none such a line once the process has ended
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    return getattr(process.memory_info(), "peak_wset", 0) / 1e6
