"""Loops of the merging techniques over one block (or chunk) of all models: those of a few operations in numpy.

The others are compiled, in `compiled`, which comes when one of them is first used: importing numba costs as much as
averaging two models. `rows` are the experts' values as they were read, of a chunk; a loop goes over its columns low …
high and computes in fp64.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # what `__getattr__` finds, for those who read code without running it: the keys of steps are made so
    from clipmerge.merge.compiled import (  # noqa: F401
        LOW,
        balance,
        count,
        count_within,
        drawn,
        elect_and_combine,
        fisher,
        products,
        rebuild,
        thin,
        trim,
        unify,
    )


def __getattr__(name: str) -> object:
    """A compiled loop."""
    from clipmerge.merge import compiled

    return getattr(compiled, name)


def from_bfloat16(bits, out):
    """fp32 of bfloat16, which is the upper half of its bits."""
    whole = out.view(np.uint32)
    whole[:] = bits
    whole <<= np.uint32(16)


def to_bfloat16(values, out):
    """The nearest bfloat16, to even where two are as near; finite values and infinities only."""
    bits = values.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    out[:] = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)


def strange(rows):
    """The first row that holds NaN or Inf, or -1."""
    return next((k for k, row in enumerate(rows) if not np.isfinite(row).all()), -1)


def subtract(rows, base, low, high, out):
    """out_kj = rows_kj − base_j."""
    np.subtract(rows[:, low:high], base[low:high], out=out, dtype=np.float64)


def weighted(rows, weights, low, high, out):
    """out_j = Σ_k w_k rows_kj, summed from k = 0 on."""
    term = np.empty_like(out)
    out[:] = 0
    for row, weight in zip(rows[:, low:high], weights, strict=True):
        out += np.multiply(row, weight, out=term)


def added(rows, base, scale, low, high, out):
    """out_j = base_j + scale · Σ_k (rows_kj − base_j)."""
    origin = base[low:high].astype(np.float64)
    change = np.empty_like(out)
    out[:] = 0
    for row in rows[:, low:high]:
        out += np.subtract(row, origin, out=change)
    out *= scale
    out += origin
