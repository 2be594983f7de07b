"""Compiled loops: ConDU's fused kernels, and those of the techniques that numpy would do in a dozen operations.

Each is over one block (or chunk) of all models, in a written-down order, and lets a thread work on its own: numpy asks
Python for leave at every operation. Arrays are C-contiguous. `rows` are the experts' values as they were read, of a
chunk; a loop goes over its columns low … high and computes in fp64. `loops` brings this module when one is first used.
"""

import sys
from typing import no_type_check

import numpy as np
from numba import njit

from clipmerge.merge.pieces import BLOCK, LANES, STRIP, UNROLL

# Before its first loop numba asks whether scipy brings a BLAS, which takes as long as importing numba itself. No loop
# here uses one, so scipy is out of sight while it asks (np.dot, compiled elsewhere, asks again and finds it).
BLAS = "scipy.linalg.cython_blas"
if sys.modules.setdefault(BLAS, None) is None:
    import numba.np.arraymath  # noqa: F401

    del sys.modules[BLAS]

LOW = 15  # fp32 magnitudes have 31 bits; they are ranked by the upper 16 first, then by these


@njit(nogil=True, cache=True)
@no_type_check  # keeps the tests' shape checker out of compiled code
def unify(rows, unified, masks, sums):
    """Elect, agree and add up strip by strip: see `kernels.unify_chunk`."""
    experts, n = rows.shape
    for start in range(0, n, STRIP):
        stop = min(start + STRIP, n)
        u, block = unified[start:stop], sums[start // BLOCK]
        _elect(rows, start, stop, u)
        for k in range(experts):
            kept = _agree(rows[k, start:stop], u, masks[k, start:stop])
            _add(rows[k, start:stop], block[k])
            _add(kept, block[experts + k])


@njit(nogil=True, cache=True)
@no_type_check
def _elect(rows, start, stop, unified):  # u_j = max_d d_j if Σ_d d_j > 0, else min_d d_j
    total = np.zeros(unified.size)
    high, low = rows[0, start:stop].copy(), rows[0, start:stop].copy()
    for k in range(len(rows)):
        row = rows[k, start:stop]
        for j in range(unified.size):
            d = row[j]
            total[j] += d
            high[j] = d if d > high[j] else high[j]
            low[j] = d if d < low[j] else low[j]
    for j in range(unified.size):
        unified[j] = high[j] if total[j] > 0 else low[j]


@njit(nogil=True, cache=True)
@no_type_check
def _agree(row, unified, mask):  # M_j = 1[d_j s_j > 0]; returns M ⊙ u
    kept, zero = np.empty_like(unified), unified.dtype.type(0)
    for j in range(row.size):
        d, u = row[j], unified[j]
        agrees = ((d > 0) & (u > 0)) | ((d < 0) & (u <= 0))
        mask[j] = agrees
        kept[j] = u if agrees else zero
    return kept


@njit(nogil=True, cache=True)
@no_type_check
def _add(row, lanes):  # Σ|x| by lanes, in order
    for turn in range(row.size // UNROLL):
        part = row[turn * UNROLL : (turn + 1) * UNROLL]
        for lane in range(lanes.size):
            total = lanes[lane] + np.float64(abs(part[lane]))
            total += np.float64(abs(part[lane + LANES]))
            total += np.float64(abs(part[lane + 2 * LANES]))
            lanes[lane] = total + np.float64(abs(part[lane + 3 * LANES]))


@njit(nogil=True, cache=True)
@no_type_check
def rebuild(unified, mask, scale, out):
    """out = scale · M ⊙ u, all in u's dtype."""
    zero = unified.dtype.type(0)
    for j in range(unified.size):
        out[j] = unified[j] * scale if mask[j] else zero


@njit(nogil=True, cache=True)
@no_type_check
def fisher(rows, diagonals, weights, floor, low, high, out):
    """out_j = Σ_k w_k (F_kj + floor) rows_kj / Σ_k w_k (F_kj + floor), Σ_k w_k rows_kj where that is 0 / 0.

    Returns whether all F are ≥ 0.
    """
    negative = 0
    for start in range(low, high, STRIP):
        stop = min(start + STRIP, high)
        part, plain, total = out[start - low : stop - low], np.zeros(stop - start), np.zeros(stop - start)
        part[:] = 0
        for k in range(len(rows)):
            row, diagonal, weight = rows[k, start:stop], diagonals[k, start:stop], weights[k]
            for j in range(part.size):
                share = weight * (np.float64(diagonal[j]) + floor)
                negative |= diagonal[j] < 0
                part[j] += share * np.float64(row[j])
                plain[j] += weight * np.float64(row[j])
                total[j] += share
        for j in range(part.size):
            part[j] = part[j] / total[j] if total[j] > 0 else plain[j]
    return negative == 0


@njit(nogil=True, cache=True)
@no_type_check
def products(a, b):
    """(a·a, b·b, a·b) in fp64: what a cosine needs. Summed in lanes, in order."""
    sums = np.zeros((3, LANES))
    turns = a.size // LANES
    for turn in range(turns):
        for lane in range(LANES):
            x, y = np.float64(a[turn * LANES + lane]), np.float64(b[turn * LANES + lane])
            sums[0, lane] += x * x
            sums[1, lane] += y * y
            sums[2, lane] += x * y
    for j in range(turns * LANES, a.size):
        x, y = np.float64(a[j]), np.float64(b[j])
        sums[0, 0] += x * x
        sums[1, 0] += y * y
        sums[2, 0] += x * y
    return sums[0].sum(), sums[1].sum(), sums[2].sum()


@njit(nogil=True, cache=True)
@no_type_check
def drawn(seed, out):
    """Fill with 32-bit numbers of the Mersenne twister, the ones that torch's generator of that seed gives."""
    np.random.seed(seed)  # noqa: NPY002 (numba's own generator, one a thread)
    for j in range(out.size):
        out[j] = np.random.randint(0, 1 << 32)  # noqa: NPY002


@njit(nogil=True, cache=True)
@no_type_check
def thin(change, numbers, drop, out):
    """out_j = change_j / (1 − p), or 0 with probability p = `drop`: where the j-th number in [0, 1) is below it."""
    for j in range(change.size):
        kept = np.float32(numbers[j] & np.uint32(0xFFFFFF)) * np.float32(2.0**-24) >= np.float32(drop)
        out[j] = (change[j] if kept else 0.0) / (1 - drop)


@njit(nogil=True, cache=True)
@no_type_check
def trim(rows, low, high, out):
    """out_kj = rows_kj if low_k ≤ |rows_kj| ≤ high_k, compared in fp32, else 0."""
    for k in range(len(rows)):
        row, kept, least, most = rows[k], out[k], low[k], high[k]
        for j in range(row.size):
            magnitude = np.float32(abs(row[j]))
            kept[j] = row[j] if (magnitude >= least) & (magnitude <= most) else 0.0


@njit(nogil=True, cache=True)
@no_type_check
def _sums(rows, start, stop):
    total = np.zeros(stop - start)
    for k in range(len(rows)):
        row = rows[k, start:stop]
        for j in range(row.size):
            total[j] += row[j]
    return total


@njit(nogil=True, cache=True)
@no_type_check
def balance(rows):
    """Coordinates with a positive sum over the rows, minus those with a negative one."""
    votes, n = 0, rows.shape[1]
    for start in range(0, n, STRIP):
        total = _sums(rows, start, min(start + STRIP, n))
        for j in range(total.size):
            votes += int(total[j] > 0) - int(total[j] < 0)
    return votes


@njit(nogil=True, cache=True)
@no_type_check
def elect_and_combine(rows, otherwise, mean, out):
    """out_j = mean (or sum) of the rows_kj with the sign of Σ_k rows_kj, or the sign `otherwise` where that is 0."""
    n = rows.shape[1]
    for start in range(0, n, STRIP):
        stop = min(start + STRIP, n)
        sign = _sums(rows, start, stop)
        for j in range(sign.size):
            sign[j] = 1.0 if sign[j] > 0 else (-1.0 if sign[j] < 0 else otherwise)
        total, agreeing = np.zeros(stop - start), np.zeros(stop - start)
        for k in range(len(rows)):
            row = rows[k, start:stop]
            for j in range(row.size):
                agrees = row[j] * sign[j] > 0
                total[j] += row[j] if agrees else 0.0
                agreeing[j] += 1.0 if agrees else 0.0
        part = out[start:stop]
        for j in range(part.size):
            part[j] = total[j] / max(agreeing[j], 1.0) if mean else total[j]


@njit(nogil=True, cache=True)
@no_type_check
def _keys(values, base):  # non-negative floats are ordered like the integers that their bits spell
    magnitudes = np.empty(values.size, np.float32)
    for j in range(values.size):
        magnitudes[j] = abs(values[j] - base[j])
    return magnitudes.view(np.int32)


@njit(nogil=True, cache=True)
@no_type_check
def count(values, base, bins):
    """Add a histogram of |values − base| in fp32, by the upper bits, to `bins`."""
    for key in _keys(values, base):
        bins[key >> LOW] += 1


@njit(nogil=True, cache=True)
@no_type_check
def count_within(values, base, upper, bins):
    """The same by the lower bits, of those whose upper bits are `upper[r]`, to `bins[r]`."""
    keys = _keys(values, base)
    for r in range(upper.size):
        for key in keys:
            if key >> LOW == upper[r]:
                bins[r, key - (upper[r] << LOW)] += 1
