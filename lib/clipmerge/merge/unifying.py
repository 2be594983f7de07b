"""ConDU on rows of numbers, wherever they come from: what `condu` does in memory and `folder` on disk."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from clipmerge.errors import BadInput
from clipmerge.merge import loops
from clipmerge.merge.kernels import unify_chunk, unpack_bits

Named = TypeVar("Named")  # a Trigger, in memory or on disk
RESCALERS = ("tensor_mean", "global_l1", "none")


def ratio(before: Mapping[str, float], after: Mapping[str, float], sizes: Mapping[str, int], kind: str) -> float:
    """The rescaler from the tensors' L1 norms before (d) and after (M ⊙ u) unifying."""
    if known_rescaler(kind) == "none":
        return 1.0
    share = {name: 1 / size if kind == "tensor_mean" else 1.0 for name, size in sizes.items() if size}
    old, new = (math.fsum(norm[name] * share[name] for name in share) for norm in (before, after))
    if old == 0 or new == 0:
        warnings.warn("a delta has magnitude 0 before or after unifying; its rescaler is 0", stacklevel=2)
        return 0.0
    return old / new


def known_rescaler(kind: str) -> str:
    """`kind`, if there is such a rescaler."""
    if kind not in RESCALERS:
        raise BadInput(f"rescaler: expected one of {', '.join(RESCALERS)}, found {kind!r}")
    return kind


def find(triggers: Sequence[Named], task: int | str) -> Named:
    """The trigger of one task, by position (from 0) or name."""
    known = [trigger.name for trigger in triggers]
    if isinstance(task, int) and -len(known) <= task < len(known):
        return triggers[task]
    if task in known:
        return triggers[known.index(task)]
    raise BadInput(f"task: expected one of {', '.join(known)} or its position, found {task!r}")


def distinct(names: Sequence[str], count: int) -> list[str]:
    """The names, if there are `count` of them and all differ."""
    if len(names) != count or len(set(names)) != count:
        raise BadInput(f"names: expected {count} different names, found {', '.join(names)}")
    return list(names)


def reconstruct(unified: np.ndarray, bits: np.ndarray, rescaler: float, out: np.ndarray | None = None) -> np.ndarray:
    """λ · M ⊙ u for one chunk, M packed; in u's dtype."""
    out = np.empty_like(unified) if out is None else out
    loops.rebuild(unified, unpack_bits(bits, unified.size), unified.dtype.type(rescaler), out)
    return out


def unify_rows(name: str, rows: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[list[float]]]:
    """`unify_chunk` of one tensor's deltas float[experts, n]; NaN and Inf are refused by name."""
    unified, bits, norms = unify_chunk(rows)
    for block in norms:
        for label, norm in zip(labels, block, strict=False):  # the first half: Σ|d|
            if not math.isfinite(norm):
                raise BadInput(f"{label}: {name} should hold finite numbers, found NaN or Inf")
    return unified, bits, norms
