"""One notebook in a kernel of its own: quiet, measured, and ended in peace.

Slow to import (papermill), so the runner does it only when there is something to run.
"""

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import papermill
import psutil
from jupyter_client.manager import AsyncKernelManager
from traitlets.config import Config

from clipmerge.study.cache import ledger

LEDGER = "steps.json"


@dataclass(frozen=True)
class Spent:
    """What a run has cost: steps, seconds waited for them, processor seconds of the kernel for anything else, peak MB
    of the kernel and of all it started too."""

    steps: dict
    waited: float
    computed: float
    notebook_mb: float
    peak_mb: float


class Manager(AsyncKernelManager):
    """Interrupts a kernel only if there is something to interrupt.

    jupyter_client interrupts every kernel that is to end. One that has just answered its last request may still be
    leaving its handler; the interrupt hits that, and it complains: "KeyboardInterrupt caught in kernel".
    """

    busy = False  # whether a cell is running; of the class, because papermill keeps its manager to itself

    @classmethod
    def begin(cls, **_: object) -> None:
        """A cell begins."""
        cls.busy = True

    @classmethod
    def end(cls, **_: object) -> None:
        """It has ended, well or not."""
        cls.busy = False

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """Ask the kernel to end, then make it; what it has started ends with it."""
        if now or self.busy:
            await super().shutdown_kernel(now=now, restart=restart)
        else:
            await self.request_shutdown(restart=restart)
            await self.finish_shutdown(restart=restart)
            await self.cleanup_resources(restart=restart)


def execute(notebook: Path, output: Path, parameters: Mapping[str, object]) -> Spent:
    """Execute `notebook` with `parameters` into `output`; raises what papermill raises."""
    with _surroundings() as folder, _watched() as peak:
        _papermill(notebook, output, parameters, folder)
        said = folder / LEDGER  # a notebook without steps says nothing
        nothing = {"waited": 0.0, "busy": 0.0, "steps": {}}
        spent = json.loads(said.read_text(encoding="utf8")) if said.exists() else nothing
    computed = peak["processor"] - spent["busy"]
    return Spent(spent["steps"], spent["waited"], computed, peak["notebook"], peak["all"])


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
def _watched() -> Iterator[dict[str, float]]:
    """The largest memory (MB), sampled: of the ``notebook``, a child of this process, and of ``all`` it starts too.

    ``processor``: seconds of computing by the notebook's kernel itself.
    """
    peak, done, runner = {"notebook": 0.0, "all": 0.0, "processor": 0.0}, threading.Event(), psutil.Process()

    def watch() -> None:
        while not done.wait(1.0):  # a look takes some ten milliseconds
            children = runner.children(recursive=True)
            notebook, processor = _sample(child for child in children if _parent(child) == runner.pid)
            everything, _ = _sample(children)
            for name, now in {"notebook": notebook, "all": everything, "processor": processor}.items():
                peak[name] = max(peak[name], now)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _parent(process: psutil.Process) -> int | None:
    with suppress(psutil.Error):  # it has just ended
        return process.ppid()
    return None


def _sample(processes: Iterable[psutil.Process]) -> tuple[float, float]:
    """Memory (MB) and seconds of computing so far, of all of them together."""
    memory = seconds = 0.0
    for process in processes:
        with suppress(psutil.Error):  # it has just ended
            memory += process.memory_info().rss / 1e6
            seconds += sum(process.cpu_times()[:2])  # its own, not its children's
    return memory, seconds
