"""Measuring this machine: seconds and bytes of a call, and step functions that time tuning and unifying.

Times are numbers of one machine and one hour; as steps they are measured once and then read. On a CPU the clock counts
the seconds that this process computes, so that what else runs on the machine matters little.
"""

import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clipmerge import files
from clipmerge.clip import device, finetune, models
from clipmerge.merge import condu
from clipmerge.study import experts
from clipmerge.study.analysis import learned

TIMES = "times.json"


def clock() -> float:
    """Seconds: of computing where this is the CPU's, of waiting where an accelerator computes."""
    where = device.here().type
    if where == "cpu":
        return time.process_time()
    getattr(torch, where).synchronize()
    return time.perf_counter()


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Median over `repeats` of the seconds a call takes, after one call that does not count."""
    run()
    times = []
    for _ in range(repeats):
        start = clock()
        run()
        times.append(clock() - start)
    return median(times)


class Live(TorchDispatchMode):
    """Counts the bytes of tensors made while it is entered, and their peak (`peak`): no allocator hides anything."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operation, then look at the storages of what came out, views of what was there before left out."""
        out = func(*args, **(kwargs or {}))
        given = _storages(args)
        for key, storage in _storages(out).items():
            if key not in self._known and key not in given:
                self._known.add(key)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._leave, key, storage.nbytes())
        return out

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _storages(values: object) -> dict[int, torch.UntypedStorage]:
    storages = [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]
    return {storage._cdata: storage for storage in storages}


def peak(run: Callable[[], object]) -> int:
    """Peak bytes of the tensors that a call makes."""
    with Live() as live:
        run()
    return live.peak


def tuning(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: seconds of one fine-tuning step, by task."""
    model = models.create(config["model"])
    recipe = finetune.Recipe(**(config["recipe"] | {"steps": config["steps"] + 1, "warmup": 1}))
    times = {}
    for task in config["tasks"]:
        data, marks = experts.dataset(task), []
        finetune.tune(model, config["model"], data, recipe, seed, after=lambda _, at=marks: at.append(clock()))
        times[data.name] = median(b - a for a, b in zip(marks, marks[1:], strict=False))
    files.write_json(out / TIMES, times)


def merging(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: for every session t, seconds of extending it by the newcomer and of decoupling all t tasks."""
    unified = None
    times: dict[str, list[float]] = {"extend": [], "decouple": []}
    for newcomer in learned.changes(inputs):
        extend = partial(_extend, unified, newcomer, config["rescaler"])
        unified = extend()  # the first call compiles or loads the fused loops
        times["extend"].append(seconds(extend, config["repeats"]))
        times["decouple"].append(seconds(partial(_decouple_all, unified), config["repeats"]))
    files.write_json(out / TIMES, times)


def _extend(unified: condu.Unified | None, newcomer: Mapping, rescaler: str) -> condu.Unified:
    return condu.extend(unified, newcomer) if unified else condu.unify([newcomer], rescaler)


def _decouple_all(unified: condu.Unified) -> None:
    for i in range(len(unified.triggers)):
        condu.decouple(unified, i)
