"""How small a mask can be written without losing a bit: entropies (bounds) and codes (real bytes).

Masks are uint8 arrays of packed bits as `merge.bitmask` keeps them. An *entropy* here is what an ideal code would need
in bits per coordinate if it knew certain frequencies and nothing else: see each function.
"""

import lzma
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clipmerge import files
from clipmerge.errors import BadInput
from clipmerge.merge.bitmask import PackedMask, unpack_bits
from clipmerge.study.condu import sessions

CODES = "codes.json"
LEVELS = 32  # of the magnitude of u, for the entropy that knows it


def entropy(density: int | float) -> float:
    """H(p) = −p log₂ p − (1−p) log₂(1−p): bits per coordinate of a mask of which only the share of ones is known."""
    if not 0 <= density <= 1:
        raise BadInput(f"entropy: density: expected a number between 0 and 1, found {density}")
    terms = [-p * np.log2(p) for p in (density, 1 - density) if p > 0]
    return float(sum(terms))


def split_entropy(ones: np.ndarray, sizes: np.ndarray) -> float:
    """The same, if the share of ones is known for each of several groups of coordinates (ones[g] of sizes[g])."""
    return float(sum(size * entropy(one / size) for one, size in zip(ones, sizes, strict=True) if size) / sizes.sum())


def joint_entropy(masks: np.ndarray) -> float:
    """Bits per coordinate *and task* of bool[tasks, n], coded together: entropy of the columns' patterns / tasks."""
    packed = np.packbits(masks, axis=0).T  # a row of bytes for each coordinate
    counts = np.unique(packed, axis=0, return_counts=True)[1] / masks.shape[1]
    return float(-(counts * np.log2(counts)).sum() / len(masks))


def runs(mask: np.ndarray) -> np.ndarray:
    """Lengths of the runs of equal bits; the first run counts zeros and may be 0. They sum to the mask's length."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=-1))
    return np.diff(edges, prepend=0)


def run_length(mask: np.ndarray) -> bytes:
    """Runs as bytes, seven bits of a length in each, lowest first; the high bit says that more follow (LEB128)."""
    lengths = runs(mask)[:, None]
    place = np.arange(5)
    digits = (lengths >> 7 * place) & 127
    used = (place == 0) | (lengths >> 7 * place > 0)
    more = lengths >> 7 * (place + 1) > 0
    return (digits + 128 * more)[used].astype(np.uint8).tobytes()


def flat(mask: Mapping[str, PackedMask]) -> np.ndarray:
    """All tensors of a mask as one bool[n], in the order of their names."""
    return np.concatenate([unpack_bits(mask[key].bits.numpy(), mask[key].count) for key in sorted(mask)])


def levels(u: np.ndarray) -> np.ndarray:
    """Which of `LEVELS` equally large groups of |u| each coordinate is in; who decodes holds u and knows it too."""
    size = np.abs(u)
    return np.searchsorted(np.quantile(size, np.linspace(0, 1, LEVELS + 1)[1:-1]), size)


def measure(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: density of every task's mask and its bytes under each code; "joint" is the mean over tasks."""
    unified = sessions.load(inputs["session"])
    parts = [unified.delta[key].flatten().numpy() for key in sorted(unified.delta)]
    u = np.concatenate(parts)
    tensor = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    level = levels(u)
    masks = np.stack([flat(trigger.mask) for trigger in unified.triggers])
    by_task = [sizes(mask, u != 0, tensor, level) for mask in masks]
    found = {code: [task[code] for task in by_task] for code in by_task[0]}
    joint = joint_entropy(masks) * len(u) / 8
    files.write_json(out / CODES, {"density": [float(mask.mean()) for mask in masks], "joint": joint, "bytes": found})


def sizes(mask: np.ndarray, moved: np.ndarray, tensor: np.ndarray, level: np.ndarray) -> dict[str, float]:
    """Bytes of a mask under each code; for an entropy, what an ideal code would take.

    `moved` are the coordinates where u ≠ 0: elsewhere every mask is 0 and need not say so. `tensor` and `level` are the
    groups a coordinate belongs to.
    """
    packed = np.packbits(mask).tobytes()
    short = np.packbits(mask[moved]).tobytes()
    return {
        "entropy": entropy(float(mask.mean())) * len(mask) / 8,
        "entropy by tensor": split_entropy(np.bincount(tensor, mask), np.bincount(tensor)) * len(mask) / 8,
        "entropy given |u|": split_entropy(np.bincount(level, mask), np.bincount(level)) * len(mask) / 8,
        "packed": len(packed),
        "packed where u ≠ 0": len(short),
        "run-length": len(run_length(mask)),
        "zlib": len(zlib.compress(packed, 9)),
        "zlib where u ≠ 0": len(zlib.compress(short, 9)),
        "lzma": len(lzma.compress(packed)),
    }
