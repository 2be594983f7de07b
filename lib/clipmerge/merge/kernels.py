"""The fused inner loops of ConDU. Each does, strip by strip in the fastest cache, what the functions of `condu` say.

Torch would walk over the data once per operation, and ask Python for leave each time, so that threads wait for one
another. Here a thread works through a chunk of several blocks on its own. Only elementwise arithmetic and sums of a
written-down order happen, so results do not depend on threads or chunks.
"""

import math
from typing import no_type_check

import numpy as np
from numba import njit

BLOCK = 1 << 14  # elements whose sums are taken together, whatever the chunk: this is what fixes the order of sums
TOGETHER = 64  # blocks, of all models together, that one thread holds at a time: memory does not grow with the models
STRIP = 1 << 11  # elements of all models that a loop goes over before it turns to the next; divides BLOCK
LANES = 16  # partial sums of a block: element j goes to lane j mod 16, so that the compiler can use wide registers
UNROLL = 4 * LANES  # elements added per turn of a loop, or every turn would wait for the last


def spans(count: int, step: int = BLOCK) -> list[tuple[int, int]]:
    """Cut `count` elements into (start, stop) pieces of `step`, the last one shorter."""
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def chunk(models: int) -> int:
    """Elements of each of so many models that a thread takes at a time: whole blocks, fewer the more models."""
    return max(1, TOGETHER // models) * BLOCK


def packed_size(count: int) -> int:
    """Bytes that `count` bits take."""
    return (count + 7) // 8


def unpack_bits(bits: np.ndarray, count: int) -> np.ndarray:
    """The first `count` bits of a uint8 array, as booleans."""
    return np.unpackbits(bits, count=count).view(np.bool_)


def l1(row: np.ndarray) -> float:
    """Σ|x| over one block in fp64, in the order the kernels use: lane by lane, then exactly over lanes."""
    whole = np.zeros(-(-row.size // LANES) * LANES)
    whole[: row.size] = np.abs(row)
    lanes = np.zeros(LANES)
    for part in whole.reshape(-1, LANES):
        lanes += part
    return math.fsum(lanes)


def unify_chunk(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[list[float]]]:
    """Elect, agree and measure a chunk that starts where a block does.

    rows: float[experts, n], the deltas. Returns u float[n], packed masks uint8[experts, ceil(n / 8)], and for every
    block the experts' Σ|d|, then their Σ|M ⊙ u|. A NaN or Inf in a row makes its Σ|d| non-finite.
    """
    experts, n = rows.shape
    rows = np.pad(rows, ((0, 0), (0, -n % UNROLL))) if n % UNROLL else rows  # zeros change neither sums nor masks
    unified, masks = np.empty(rows.shape[1], rows.dtype), np.empty(rows.shape, np.bool_)
    sums = np.zeros((-(-n // BLOCK), 2 * experts, LANES))
    _unify(rows, unified, masks, sums)
    bits = np.packbits(masks, axis=1)[:, : packed_size(n)]
    return unified[:n], bits, [[math.fsum(lanes) for lanes in block] for block in sums.tolist()]


@njit(nogil=True, cache=True)
@no_type_check  # keeps the tests' shape checker out of compiled code
def _unify(rows, unified, masks, sums):
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
