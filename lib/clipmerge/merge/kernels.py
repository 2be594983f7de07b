"""What ConDU does to a chunk of several blocks, strip by strip in the fastest cache: what the functions of `condu` say.

Only elementwise arithmetic and sums of a written-down order happen, so results do not depend on threads or chunks.
"""

import math

import numpy as np

from clipmerge.merge import loops

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
    loops.unify(rows, unified, masks, sums)
    bits = np.packbits(masks, axis=1)[:, : packed_size(n)]
    return unified[:n], bits, [[math.fsum(lanes) for lanes in block] for block in sums.tolist()]
