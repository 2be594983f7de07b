"""Step functions that measure this machine: how long tuning, unifying and answering take, and how much memory.

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
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from clipmerge import files
from clipmerge.clip import finetune, models, prompts
from clipmerge.merge import condu, deltas
from clipmerge.study import experts
from clipmerge.study.analysis import learned, stacking
from clipmerge.study.cache.step import accelerator
from clipmerge.study.condu import sessions

TIMES = "times.json"


def clock() -> float:
    """Seconds: of computing where this is the CPU's, of waiting where an accelerator computes."""
    device = accelerator()
    if device == "cpu":
        return time.process_time()
    getattr(torch, device).synchronize()
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
        """Run the operation, then look at the storages of what came out."""
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self._meet(tensor.untyped_storage(), args)
        return out

    def _meet(self, storage: torch.UntypedStorage, args: tuple) -> None:
        key, size = storage._cdata, storage.nbytes()
        given = {a.untyped_storage()._cdata for a in args if isinstance(a, torch.Tensor)}
        if key in self._known or key in given:  # a view of what was there before
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def peak(run: Callable[[], object]) -> int:
    """Peak bytes of the tensors that a call makes."""
    with Live() as live:
        run()
    return live.peak


def tuning(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: seconds of one fine-tuning step, by task."""
    model = models.create(config["model"]).to(accelerator())
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


@torch.no_grad()
def answering(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: seconds and peak bytes of the answer of the base and K experts, by way, batch and K.

    Ways: ``base`` (K = 0), ``loop`` and ``stacked`` with every expert's tower held ready, and ``decouple`` as a loop
    that holds u and the triggers only and brings back one expert at a time. Peak bytes hold the towers (of ``decouple``
    one dense delta), inputs and intermediate results; what all ways share, base and unified delta, is not counted.
    """
    name, data = config["model"], experts.dataset(config["task"])
    model, unified = models.create(name).to(accelerator()), sessions.load(inputs["session"] / sessions.UNIFIED)
    base = models.state(model)
    towers, heads = [], []
    for change in ({}, *(condu.decouple(unified, i) for i in range(max(config["k"])))):
        towers.append(stacking.tower(base, change))
        model.load_state_dict(deltas.apply_delta(base, change))
        heads.append(prompts.head(model, name, data.classes, data.templates[:1]))
    heads = torch.stack(heads)
    times = []
    for batch in config["batches"]:
        x = models.pixels(data.train_images[:batch], model)
        for k in (0, *config["k"]):
            for way, run in _ways(model.visual, base, unified, towers[: k + 1], heads[: k + 1], x).items():
                held = sum(tensor.nbytes for tower in towers[: k + 1] for tensor in tower.values())
                held = held // (k + 1) if way == "decouple" else held
                row = {"way": way, "batch": batch, "k": k}
                times.append(row | {"seconds": seconds(run, config["repeats"]), "bytes": held + peak(run)})
    files.write_json(out / TIMES, times)


def _ways(
    visual: nn.Module, base: Mapping, unified: condu.Unified, towers: list[Mapping], heads: Tensor, x: Tensor
) -> dict[str, Callable[[], Tensor]]:
    """By name of the way: the call that gives the mean of all members' logits."""
    if len(towers) == 1:
        return {"base": lambda: stacking.looped(visual, towers, heads, x).mean(0)}
    together = stacking.stack(towers)

    def decoupled() -> Tensor:
        total = stacking.answer(visual, towers[0], heads[0], x)
        for i, head in enumerate(heads[1:]):
            total += stacking.answer(visual, stacking.tower(base, condu.decouple(unified, i)), head, x)
        return total / len(heads)

    return {
        "loop": lambda: stacking.looped(visual, towers, heads, x).mean(0),
        "stacked": lambda: stacking.stacked(visual, together, heads, x).mean(0),
        "decouple": decoupled,
    }
