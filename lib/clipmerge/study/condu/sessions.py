"""What a learner keeps after each session: one delta for all tasks, or a bank of experts that can be asked one by one.

Step functions, and how to read what they leave. Experts are inputs named ``expert.00``, ``expert.01`` and so on, in the
order of learning.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from clipmerge import files
from clipmerge.merge import condu, folder
from clipmerge.study import experts
from clipmerge.study.cache.step import Step
from clipmerge.study.experts import lora

UNIFIED = "unified"  # a folder that `clipmerge inspect` opens
Bank = Callable[[int], Mapping[str, Tensor]]  # task number → that task's delta


def numbered(steps: Sequence[Step], kind: str = "expert") -> dict[str, Step]:
    """Steps as named inputs that sort in the order of learning."""
    return {f"{kind}.{i:02d}": step for i, step in enumerate(steps)}


def average(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Weight averaging: the mean of all experts' deltas, one model for all tasks."""
    deltas = [experts.delta(inputs[name]) for name in sorted(inputs)]
    mean = {key: torch.stack([d[key] for d in deltas]).mean(0) for key in deltas[0]}
    files.save_tensors(out / experts.DELTA, mean)


def one_shot(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """EMR-Merging: unify the stored experts themselves, all at once. ConDU without the drift of its recursion."""
    deltas = [experts.delta(inputs[name]) for name in sorted(inputs)]
    folder.save(condu.unify(deltas, rescaler=config["rescaler"]), out / UNIFIED)


def extend(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """ConDU: decouple the earlier tasks from what session t−1 has left, unify them with the newcomer."""
    newcomer = experts.delta(inputs["newcomer"])
    if "earlier" in inputs:
        unified = condu.extend(load(inputs["earlier"]), newcomer)
    else:
        unified = condu.unify([newcomer], rescaler=config["rescaler"])
    folder.save(unified, out / UNIFIED)


def load(session: Path) -> condu.Unified:
    """The unified delta and triggers that a session's step has left in its folder."""
    return folder.load(session / UNIFIED)


def bank(inputs: Mapping[str, Path], config: Mapping | None = None) -> Bank:
    """The experts of a session: decoupled from its unified delta, the stored originals, a single ``model``, or none.

    A config with ``lora`` says that a session has unified factors: they are multiplied out once they are decoupled.
    """
    if "session" in inputs:
        unified = load(inputs["session"])
        if config and "lora" in config:
            begin = lora.start(config)
            return lambda i: lora.multiply(begin, condu.decouple(unified, i))
        return lambda i: condu.decouple(unified, i)
    if any(name.startswith("expert.") for name in inputs):
        return lambda i: experts.delta(inputs[f"expert.{i:02d}"])
    return lambda _: experts.delta(inputs["model"]) if "model" in inputs else {}
