"""Run many independent jobs: one after the other, in worker processes, or on a Ray cluster.

Every job runs on one thread wherever it runs: sums of floats depend on the number of threads, and results must not
depend on the number of workers.
"""

import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import joblib
import torch

from clipmerge.errors import BadInput

Progress = Callable[[int, int], None]
_IMPORT_PATH = tuple(sys.path)


def map(
    fn: Callable[[Any], Any],
    jobs: Iterable[Any],
    workers: int | None = None,
    backend: str = "auto",
    progress: Progress | None = None,
) -> list[Any]:
    """``[fn(job) for job in jobs]``, in that order whoever finishes first.

    `backend` is ``serial``, ``processes`` (`fn` and jobs must be picklable), ``ray``, or ``auto``: processes if there
    is more than one job and more than one of `workers` (default: the cores this process may use). `progress` is called
    with (done, total). A failing job stops the others; its exception carries a note with the job's name.
    """
    jobs = list(jobs)
    workers = joblib.cpu_count() if workers is None else workers
    if workers < 1:
        raise BadInput(f"engine: workers: expected at least 1, found {workers}")
    if backend == "auto":
        backend = "processes" if min(workers, len(jobs)) > 1 else "serial"
    backends = {"serial": _serial, "processes": _processes, "ray": _ray}
    if backend not in backends:
        raise BadInput(f"engine: backend: expected auto, {', '.join(backends)}; found {backend!r}")
    results: list[Any] = [None] * len(jobs)
    with closing(backends[backend](fn, jobs, workers)) as finished:
        for done, (index, result) in enumerate(finished, start=1):
            results[index] = result
            if progress:
                progress(done, len(jobs))
    return results


def _serial(fn: Callable, jobs: Sequence, _: int) -> Iterator[tuple[int, Any]]:
    for index, job in enumerate(jobs):
        yield _call(fn, index, job)


def _processes(fn: Callable, jobs: Sequence, workers: int) -> Iterator[tuple[int, Any]]:
    """Loky workers, kept alive between calls: starting one costs the import of torch, about three seconds."""
    if not jobs:
        return
    calls = (joblib.delayed(_call)(fn, index, job) for index, job in enumerate(jobs))
    with _first_import_path(), joblib.parallel_config("loky", n_jobs=workers, inner_max_num_threads=1):
        yield from joblib.Parallel(return_as="generator_unordered", batch_size=1, max_nbytes=None)(calls)


def _ray(fn: Callable, jobs: Sequence, _: int) -> Iterator[tuple[int, Any]]:
    """One core, and one GPU if this machine has any, for each job; the cluster decides how many run at once."""
    try:
        import ray
    except ImportError:
        raise BadInput("engine: backend ray: expected the package ray (pip install clipmerge[cluster])") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    call = ray.remote(num_cpus=1, num_gpus=int(torch.cuda.is_available()), max_retries=0)(_call)
    waiting = [call.remote(fn, index, job) for index, job in enumerate(jobs)]
    try:
        while waiting:
            done, waiting = ray.wait(waiting)
            yield from ray.get(done)
    finally:
        for left in waiting:  # none, unless a job failed or the reader interrupted
            ray.cancel(left, force=True)


def _call(fn: Callable, index: int, job: Any) -> tuple[int, Any]:
    try:
        with one_thread():
            return index, fn(job)
    except Exception as error:
        error.add_note(f"in job {index + 1}: {getattr(job, 'name', None) or reprlib.repr(job)}")
        raise


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use a single thread, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _first_import_path() -> Iterator[None]:
    """Workers inherit ``sys.path``: give them the one of our own import, so that they load the same modules."""
    changed = sys.path[:]
    sys.path[:] = _IMPORT_PATH
    try:
        yield
    finally:
        sys.path[:] = changed
