"""What ConDU does to a chunk of several blocks, strip by strip in the fastest cache: what the functions of `condu` say.

Only elementwise arithmetic and sums of a written-down order happen, so results do not depend on threads or chunks.
"""

import math

import numpy as np

from clipmerge.merge import loops
from clipmerge.merge.pieces import BLOCK, LANES, UNROLL


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
    loops.unify(rows, unified, masks, sums)
    bits = np.packbits(masks, axis=1)[:, : packed_size(n)]
    return unified[:n], bits, [[math.fsum(lanes) for lanes in block] for block in sums.tolist()]
