"""What a learner keeps after each session: one delta for all tasks, or a bank of experts that can be asked one by one.

`build` says for each method which steps that takes; `average`, `one_shot` and `extend` are the step functions. Experts
are inputs named ``expert.00``, ``expert.01`` and so on, in the order of learning.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from clipmerge import files
from clipmerge.errors import BadInput
from clipmerge.merge import condu
from clipmerge.merge.bitmask import PackedMask
from clipmerge.study import experts
from clipmerge.study.cache.step import Step

METHODS = ("zero-shot", "continual-ft", "experts", "average", "emr", "condu-ft")
SINGLE = ("zero-shot", "continual-ft", "average")  # one model answers everything: nothing to route
UNIFIED = "unified.safetensors"
Bank = Callable[[int], Mapping[str, Tensor]]  # task number → that task's delta


def numbered(steps: Sequence[Step]) -> dict[str, Step]:
    """Steps as named inputs that sort in the order of learning."""
    return {f"expert.{i:02d}": step for i, step in enumerate(steps)}


def build(method: str, name: str, tuned: Sequence[Step], rescaler: str) -> list[dict[str, Step]]:
    """What `method` keeps after each session, as named inputs of the step that grades it.

    `tuned` are the experts in the order of learning (for ``continual-ft`` the links of the chain).
    """
    kept: list[dict[str, Step]] = []
    for t, newcomer in enumerate(tuned):
        label, so_far = f"session/{name}/{t + 1:02d}", numbered(tuned[: t + 1])
        if method == "zero-shot":
            kept.append({})
        elif method == "continual-ft":
            kept.append({"model": newcomer})
        elif method == "experts":
            kept.append(so_far)
        elif method == "average":
            kept.append({"model": Step(average, label, {}, so_far)})
        elif method == "emr":
            kept.append({"session": Step(one_shot, label, {"rescaler": rescaler}, so_far)})
        elif method == "condu-ft":
            inputs = {"newcomer": newcomer} | ({"earlier": kept[-1]["session"]} if kept else {})
            kept.append({"session": Step(extend, label, {"rescaler": rescaler}, inputs)})
        else:
            raise BadInput(f"method: expected one of {', '.join(METHODS)}, found {method!r}")
    return kept


def average(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Weight averaging: the mean of all experts' deltas, one model for all tasks."""
    deltas = [experts.delta(inputs[name]) for name in sorted(inputs)]
    mean = {key: torch.stack([d[key] for d in deltas]).mean(0) for key in deltas[0]}
    files.save_tensors(out / experts.DELTA, mean)


def one_shot(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """EMR-Merging: unify the stored experts themselves, all at once. ConDU without the drift of its recursion."""
    deltas = [experts.delta(inputs[name]) for name in sorted(inputs)]
    save(out / UNIFIED, condu.unify(deltas, rescaler=config["rescaler"]))


def extend(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """ConDU: decouple the earlier tasks from what session t−1 has left, unify them with the newcomer."""
    newcomer = experts.delta(inputs["newcomer"])
    if "earlier" in inputs:
        unified = condu.extend(load(inputs["earlier"] / UNIFIED), newcomer)
    else:
        unified = condu.unify([newcomer], rescaler=config["rescaler"])
    save(out / UNIFIED, unified)


def save(path: Path, unified: condu.Unified) -> None:
    """Write a unified delta with its triggers into one safetensors file, masks packed."""
    tensors = {f"delta.{key}": value for key, value in unified.delta.items()}
    for i, trigger in enumerate(unified.triggers):
        tensors |= {f"mask.{i:02d}.{key}": mask.bits for key, mask in trigger.mask.items()}
    scales = {trigger.name: trigger.rescaler for trigger in unified.triggers}
    files.save_tensors(path, tensors, meta={"rescaler": unified.rescaler, "scales": list(scales.items())})


def load(path: Path) -> condu.Unified:
    """Read what `save` has written."""
    tensors, meta = files.load_tensors(path), files.load_meta(path)
    delta = {key.removeprefix("delta."): value for key, value in tensors.items() if key.startswith("delta.")}
    triggers = []
    for i, (name, scale) in enumerate(meta["scales"]):
        mask = {key: PackedMask(tensors[f"mask.{i:02d}.{key}"], tuple(delta[key].shape)) for key in delta}
        triggers.append(condu.Trigger(mask, scale, name))
    return condu.Unified(delta, tuple(triggers), meta["rescaler"])


def bank(inputs: Mapping[str, Path]) -> Bank:
    """The experts of a session: decoupled from its unified delta, or the stored originals."""
    if "session" in inputs:
        unified = load(inputs["session"] / UNIFIED)
        return lambda i: condu.decouple(unified, i)
    return lambda i: experts.delta(inputs[f"expert.{i:02d}"])
