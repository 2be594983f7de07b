"""The fused inner loops. Each does, for one block held in cache, what the one-tensor functions of `condu` say.

Torch would walk over the block once per operation; at N = 8 experts one fused pass is about five times faster. Only
elementwise arithmetic and sums of a written-down order happen here, so results do not depend on threads or blocks.
"""

import math
from typing import no_type_check

import numpy as np
from numba import njit

BLOCK = 1 << 14  # elements handled together: 8 experts' fp32 blocks and their masks fit a 1 MB cache; a multiple of 8
LANES = 16  # partial sums of a block: element j goes to lane j mod 16, so that the compiler can use wide registers


def spans(count: int) -> list[tuple[int, int]]:
    """Cut `count` elements into (start, stop) blocks; the cut is fixed, hence so is the order of every sum."""
    return [(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


def l1(row: np.ndarray) -> float:
    """Σ|x| over one block in fp64, in the order the kernels use: lane by lane, then exactly over lanes."""
    whole = np.zeros(-(-row.size // LANES) * LANES)
    whole[: row.size] = np.abs(row)
    lanes = np.zeros(LANES)
    for part in whole.reshape(-1, LANES):
        lanes += part
    return math.fsum(lanes)


def unify_block(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[float], list[float]]:
    """Elect, agree and measure one block.

    rows: float[experts, n], the deltas. Returns u float[n], packed masks uint8[experts, ceil(n / 8)], and for every
    expert Σ|d| and Σ|M ⊙ u| over the block. A NaN or Inf in a row makes its Σ|d| non-finite.
    """
    n = rows.shape[1]
    rows = np.pad(rows, ((0, 0), (0, -n % LANES))) if n % LANES else rows  # zeros change neither sums nor masks
    unified, masks = np.empty(rows.shape[1], rows.dtype), np.empty(rows.shape, np.bool_)
    before, after = np.zeros((len(rows), LANES)), np.zeros((len(rows), LANES))
    _elect(rows, unified)
    _agree(rows, unified, masks, before, after)
    bits = np.packbits(masks, axis=1)[:, : (n + 7) // 8]
    return unified[:n], bits, [math.fsum(x) for x in before], [math.fsum(x) for x in after]


@njit(nogil=True, cache=True)
@no_type_check  # keeps the tests' shape checker out of compiled code
def _elect(rows, unified):  # u_j = max_d d_j if Σ_d d_j > 0, else min_d d_j
    total = np.zeros(unified.size)
    high, low = rows[0].copy(), rows[0].copy()
    for k in range(len(rows)):
        for j in range(unified.size):
            d = rows[k, j]
            total[j] += d
            high[j] = d if d > high[j] else high[j]
            low[j] = d if d < low[j] else low[j]
    for j in range(unified.size):
        unified[j] = high[j] if total[j] > 0 else low[j]


@njit(nogil=True, cache=True)
@no_type_check
def _agree(rows, unified, masks, before, after):  # M_j = 1[d_j s_j > 0], with Σ|d| and Σ|M ⊙ u| on the way
    zero = unified.dtype.type(0)
    for k in range(len(rows)):
        row, mask = rows[k], masks[k]
        old, new = np.zeros(LANES), np.zeros(LANES)  # local, or the compiler fears aliases and gives up wide registers
        for group in range(row.size // LANES):
            for lane in range(LANES):
                j = group * LANES + lane
                d, u = row[j], unified[j]
                agrees = d > 0 if u > 0 else d < 0
                mask[j] = agrees
                old[lane] += np.float64(abs(d))
                new[lane] += np.float64(abs(u) if agrees else zero)
        before[k], after[k] = old, new


@njit(nogil=True, cache=True)
@no_type_check
def count(keys, shift, bins):
    """Add a histogram of non-negative integers, by their high bits, to `bins`."""
    for key in keys:
        bins[key >> shift] += 1


@njit(nogil=True, cache=True)
@no_type_check
def count_within(keys, shift, high, bins):
    """The same by their low bits, of those whose high bits are `high`."""
    for key in keys:
        if key >> shift == high:
            bins[key - (high << shift)] += 1
