"""Run many jobs, some of which may need others: one after the other, in worker processes, or on a Ray cluster.

Every job runs on one thread wherever it runs: sums of floats depend on the number of threads, and results must not
depend on the number of workers.
"""

import reprlib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from graphlib import TopologicalSorter
from typing import Any

import joblib
import torch
from joblib.externals.loky import get_reusable_executor

from clipmerge import paths
from clipmerge.errors import BadInput
from clipmerge.study.cache import cluster, slots
from clipmerge.study.cache.cluster import Need

Submit = Callable[..., Future]  # what a job needs, function, arguments
_IMPORT_PATH = tuple(sys.path)
_LIMITS = ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "BLIS_NUM", "VECLIB_MAXIMUM", "NUMBA_NUM", "NUMEXPR_NUM")
_ONE_THREAD = {f"{library}_THREADS": "1" for library in _LIMITS}
_place: ContextVar[int] = ContextVar("place", default=0)


def place() -> int:
    """The number of the worker, from 0, in whose place this job runs: workers of one machine share its GPUs by it."""
    return _place.get()


def map(
    fn: Callable[[Any], Any],
    jobs: Iterable[Any],
    workers: int | None = None,
    backend: str = "auto",
) -> list[Any]:
    """``[fn(job) for job in jobs]``, in that order whoever finishes first; the rest is as in `flow`."""
    jobs = list(jobs)
    return flow(fn, jobs, [()] * len(jobs), workers, backend)


def flow(
    fn: Callable[[Any], Any],
    jobs: Sequence[Any],
    needs: Sequence[Collection[int]],
    workers: int | None = None,
    backend: str = "auto",
    threads: int = 1,
    gpus: Sequence[Need] = (),
) -> list[Any]:
    """``[fn(job) for job in jobs]``, where job *i* starts once the jobs numbered ``needs[i]`` have ended.

    Of the jobs that may start, the one goes first behind which the longest chain waits. `backend` is ``serial``,
    ``processes`` (`fn` and jobs must be picklable), ``ray``, or ``auto``: processes if there is more than one job and
    more than one of `workers` (default: the cores this process may use), each on so many `threads`. `gpus` says what
    each job needs of a GPU, which only Ray heeds. A failing job stops the others; its exception carries a note with the
    job's name.
    """
    workers = joblib.cpu_count() if workers is None else workers
    backend = _chosen(backend, workers, len(jobs))
    backends = {"serial": _serial, "processes": _processes, "ray": lambda _: cluster.session(threads)}
    if not jobs:
        return []
    at_once = {"serial": 1, "processes": workers, "ray": len(jobs)}[backend]  # the cluster has a queue of its own
    results: dict[int, Any] = {}
    inner = slots.inside()
    gpus = gpus or [Need()] * len(jobs)
    with backends[backend](workers) as submit:
        for index, future in _finished(
            lambda i, at: submit(gpus[i], _call, fn, i, jobs[i], inner, at, threads), needs, at_once
        ):
            try:
                results[index] = future.result()
            except cluster.Lost as error:  # nobody was left there to name the job
                _name(error, index, jobs[index])
                raise
    return [results[index] for index in range(len(jobs))]


def _chosen(backend: str, workers: int, jobs: int) -> str:
    """The backend that ``auto`` means; refuses one that is not known."""
    if workers < 1:
        raise BadInput(f"engine: workers: expected at least 1, found {workers}")
    if backend not in ("auto", "serial", "processes", "ray"):
        raise BadInput(f"engine: backend: expected auto, serial, processes, ray; found {backend!r}")
    if backend != "auto":
        return backend
    return "processes" if min(workers, jobs) > 1 else "serial"


def _finished(start: Callable[[int, int], Future], needs: Sequence[Collection[int]], at_once: int) -> Iterator[tuple]:
    """(number, its future) of each job as it ends; no job is started before its turn, nor two in one worker's place."""
    behind = _chains(needs)
    graph = TopologicalSorter(dict(enumerate(needs)))
    graph.prepare()
    ready: list[int] = []
    running: dict[Future, tuple[int, int]] = {}  # its number and place
    free = list(range(at_once))
    while graph.is_active():
        ready = sorted([*ready, *graph.get_ready()], key=lambda index: (-behind[index], index))
        while ready and free:
            index, at = ready.pop(0), free.pop(0)
            running[start(index, at)] = (index, at)
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            index, at = running.pop(future)
            free = sorted([*free, at])
            yield index, future
            graph.done(index)


def _chains(needs: Sequence[Collection[int]]) -> list[int]:
    """How many jobs the longest chain behind each job has."""
    behind = [0] * len(needs)
    for index in reversed([*TopologicalSorter(dict(enumerate(needs))).static_order()]):
        for earlier in needs[index]:
            behind[earlier] = max(behind[earlier], behind[index] + 1)
    return behind


@contextmanager
def _serial(_: int) -> Iterator[Submit]:
    """Here and now."""

    def submit(_: Need, fn: Callable, *arguments: Any) -> Future:
        future = Future()
        future.set_result(fn(*arguments))
        return future

    yield submit


@contextmanager
def _processes(workers: int) -> Iterator[Submit]:
    """Loky workers, kept alive between calls: starting one costs the import of torch, about three seconds."""
    with _first_import_path():
        home = {"CLIPMERGE_HOME": str(paths.cache().resolve())}  # workers of another cache are not used again
        pool = get_reusable_executor(workers, timeout=300, env=_ONE_THREAD | home)
        try:
            yield lambda _, fn, *arguments: pool.submit(fn, *arguments)
        except BaseException:  # a job failed, or the reader interrupted
            pool.shutdown(kill_workers=True)
            raise


def _call(fn: Callable, index: int, job: Any, inner: bool, at: int, threads: int) -> Any:
    token = _place.set(at)
    try:
        with nullcontext() if inner else slots.hold(), on_threads(threads):
            return fn(job)
    except Exception as error:
        _name(error, index, job)
        raise
    finally:
        _place.reset(token)


def _name(error: Exception, index: int, job: Any) -> None:
    """Note on an exception which job raised it."""
    error.add_note(f"in job {index + 1}: {getattr(job, 'name', None) or reprlib.repr(job)}")


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
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
