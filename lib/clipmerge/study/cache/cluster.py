"""Jobs on a Ray cluster. A cache folder that all its machines share is the only state: Ray moves no results.

Ray places jobs by what they need: cores, and a share of a GPU. A job whose worker is lost (killed, out of memory, its
machine gone) is started again elsewhere, and a training goes on from the last checkpoint in the cache.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

from clipmerge import paths
from clipmerge.errors import BadInput

RETRIES = 3


class Lost(RuntimeError):
    """The worker of a job was lost, and so were those that tried again."""


class Need(NamedTuple):
    """The share of a GPU that a job needs; one that does not insist runs on the CPU of a cluster without GPUs."""

    gpu: float = 0.0
    insists: bool = False


@contextmanager
def session(threads: int) -> Iterator[Callable[..., Future]]:
    """Yield ``submit(need, fn, *arguments)``; joins the cluster of ``RAY_ADDRESS``, the one that runs on this machine,
    or starts one here."""
    try:
        import ray
    except ImportError:
        raise BadInput("engine: backend ray: expected the package ray (pip install clipmerge[paper])") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="WARNING")
    remote = ray.remote(_there)
    started = []

    def submit(need: Need, fn: Callable, *arguments: Any) -> Future:
        placed = remote.options(num_cpus=threads, num_gpus=_gpus(ray, need), max_retries=RETRIES)
        started.append(placed.remote(str(paths.cache().resolve()), fn, *arguments))
        return _translated(ray, started[-1].future())

    try:
        yield submit
    except BaseException:
        for job in started:  # those that have ended do not mind
            ray.cancel(job, force=True)
        raise


def _there(home: str, fn: Callable, *arguments: Any) -> Any:
    """On the worker: the same cache as here."""
    os.environ["CLIPMERGE_HOME"] = home
    return fn(*arguments)


def _gpus(ray: ModuleType, need: Need) -> float:
    there = ray.cluster_resources().get("GPU", 0)
    if need.insists and not there:
        raise BadInput("engine: compute.device is cuda: expected a GPU in the Ray cluster, found none")
    return need.gpu if there else 0.0


def _translated(ray: ModuleType, inner: Future) -> Future:
    """A future that fails with the job's own exception, or with one sentence on the worker that was lost."""
    outer: Future = Future()

    def hand_on(done: Future) -> None:
        error = done.exception()
        if error is None:
            outer.set_result(done.result())
        elif isinstance(error, ray.exceptions.RayTaskError):
            outer.set_exception(error.cause)
        elif isinstance(error, ray.exceptions.RayError):
            said = str(error).strip().splitlines()[0]
            outer.set_exception(Lost(f"its worker was lost {RETRIES + 1} times, at last with: {said}"))
        else:
            outer.set_exception(error)

    inner.add_done_callback(hand_on)
    return outer
