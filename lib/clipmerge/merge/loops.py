"""Compiled loops of the merging techniques, each over one block (or chunk) of all models, in a written-down order.

What torch would do in a dozen operations is done in one, without a thread ever waiting for Python. Arrays are
C-contiguous; results are the same bits as torch's elementwise operations in fp64.
"""

from typing import no_type_check

import numpy as np
from numba import njit

STRIP = 1 << 11  # elements of all models that a loop goes over before it turns to the next
LOW = 15  # fp32 magnitudes have 31 bits; they are ranked by the upper 16 first, then by these


@njit(nogil=True, cache=True)
@no_type_check
def widen(values, out):
    """Copy to fp64; returns whether all values are finite."""
    strange = 0
    for j in range(values.size):
        wide = np.float64(values[j])
        out[j] = wide
        strange |= not abs(wide) < np.inf
    return strange == 0


@njit(nogil=True, cache=True)
@no_type_check
def weighted(rows, weights, out):
    """out_j = Σ_k w_k rows_kj, summed from k = 0 on."""
    out[:] = 0
    for k in range(len(rows)):
        row, weight = rows[k], weights[k]
        for j in range(out.size):
            out[j] += weight * row[j]


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
