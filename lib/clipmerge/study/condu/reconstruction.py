"""How faithful a reconstruction is: its distance from the original delta, and what its trigger still holds."""

import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from clipmerge.merge import condu

Delta = Mapping[str, Tensor]


def cosine(a: Delta, b: Delta) -> float:
    """Cosine between two deltas, all tensors as one vector, in fp64; 0 if one of them is zero."""
    ab, aa, bb = _products(a, b)
    return ab / math.sqrt(aa * bb) if aa and bb else 0.0


def relative_l2(original: Delta, back: Delta) -> float:
    """‖back − original‖ / ‖original‖ over all tensors, in fp64; infinite if the original is zero."""
    ab, aa, bb = _products(original, back)
    return math.sqrt(max(0.0, aa - 2 * ab + bb) / aa) if aa else math.inf


def _products(a: Delta, b: Delta) -> tuple[float, float, float]:
    """(a·b, a·a, b·b)."""
    pairs = [(a[name].double().reshape(-1), b[name].double().reshape(-1)) for name in a]
    sums = [(x @ y, x @ x, y @ y) for x, y in pairs]
    ab, aa, bb = (math.fsum(float(value) for value in column) for column in zip(*sums, strict=True))
    return ab, aa, bb


def density(trigger: condu.Trigger) -> float:
    """Share of ones in a task's mask."""
    masks = trigger.mask.values()
    ones = sum(int(np.bitwise_count(mask.bits.numpy()).sum()) for mask in masks)
    return ones / max(sum(mask.count for mask in masks), 1)


def gained(before: condu.Trigger, after: condu.Trigger) -> int:
    """Number of ones in a mask that were none a session earlier. Provably 0: masks only shrink."""
    pairs = ((before.mask[name].bits, after.mask[name].bits) for name in after.mask)
    return sum(int(np.bitwise_count((new & ~old).numpy()).sum()) for old, new in pairs)
