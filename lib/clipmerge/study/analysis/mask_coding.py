"""How small a mask can be written without losing a bit: entropies (bounds) and codes (real bytes).

Masks are uint8 arrays of packed bits as `merge.bitmask` keeps them. An *entropy* here is what an ideal code would need
in bits per coordinate if it knew certain frequencies and nothing else: see each function.
"""

import lzma
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

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
    lengths = runs(mask).astype(np.uint64)
    digits = np.stack([(lengths >> np.uint64(7 * i)) & np.uint64(127) for i in range(5)], axis=1)
    last = np.maximum(4 - (digits[:, ::-1] != 0).argmax(1), 0) * (lengths > 0)  # position of the highest digit in use
    place = np.arange(5)
    digits += np.where(place < last[:, None], 128, 0).astype(np.uint64)
    return digits[place <= last[:, None]].astype(np.uint8).tobytes()


def from_run_length(code: bytes, count: int) -> np.ndarray:
    """The bool[count] mask that `run_length` has written; BadInput if the code is for another length."""
    lengths, value, shift = [], 0, 0
    for byte in code:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            lengths.append(value)
            value = shift = 0
    if sum(lengths) != count:
        raise BadInput(f"run lengths: expected {count} bits, found {sum(lengths)}")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def flat(mask: Mapping[str, PackedMask]) -> np.ndarray:
    """All tensors of a mask as one bool[n], in the order of their names."""
    return np.concatenate([unpack_bits(mask[key].bits.numpy(), mask[key].count) for key in sorted(mask)])


def levels(delta: Mapping[str, Tensor]) -> np.ndarray:
    """Which of `LEVELS` equally large groups of |u| each coordinate is in; who decodes holds u and knows it too."""
    size = np.concatenate([delta[key].abs().flatten().numpy() for key in sorted(delta)])
    edges = np.quantile(size, np.linspace(0, 1, LEVELS + 1)[1:-1])
    return np.searchsorted(edges, size)


def measure(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: for each task's mask, density, entropies (bits per coordinate) and sizes under each code."""
    unified = sessions.load(inputs["session"] / sessions.UNIFIED)
    masks = np.stack([flat(trigger.mask) for trigger in unified.triggers])
    tensors = np.repeat(np.arange(len(unified.delta)), [unified.delta[key].numel() for key in sorted(unified.delta)])
    level, moved = (
        levels(unified.delta),
        np.concatenate([unified.delta[key].flatten() for key in sorted(unified.delta)]),
    )
    found = [{"bits": _bounds(mask, tensors, level), "bytes": _sizes(mask, moved != 0)} for mask in masks]
    shared = {"joint": joint_entropy(masks), "coordinates": masks.shape[1]}
    files.write_json(out / CODES, {"tasks": found, **shared})


def _bounds(mask: np.ndarray, tensors: np.ndarray, levels: np.ndarray) -> dict[str, float]:
    by_tensor = split_entropy(np.bincount(tensors, mask), np.bincount(tensors))
    by_level = split_entropy(np.bincount(levels, mask), np.bincount(levels))
    return {"density": float(mask.mean()), "entropy": entropy(float(mask.mean())), "entropy by tensor": by_tensor,
            "entropy given |u|": by_level}  # fmt: skip


def _sizes(mask: np.ndarray, moved: np.ndarray) -> dict[str, int]:
    """Bytes under each code; `moved` are the coordinates where u ≠ 0: elsewhere every mask is 0 and need not say so."""
    packed, short = np.packbits(mask).tobytes(), np.packbits(mask[moved]).tobytes()
    codes: Sequence[tuple[str, bytes]] = (
        ("packed", packed),
        ("packed where u ≠ 0", short),
        ("zlib where u ≠ 0", zlib.compress(short, 9)),
        ("run-length", run_length(mask)),
        ("zlib", zlib.compress(packed, 9)),
        ("lzma", lzma.compress(packed)),
    )
    return {name: len(code) for name, code in codes}
