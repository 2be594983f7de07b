"""What is known of a model before a value is read: names, shapes, number formats. And those formats in numpy.

No torch here, nor in anything that works file to file: importing it costs more than merging a small model.
"""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from clipmerge.errors import BadInput
from clipmerge.merge import loops

CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
DTYPES = {code: dtype for dtype, code in CODES.items()}
FLOATS = ("float16", "bfloat16", "float32", "float64")
SHOWN = 10  # offending keys listed in one error
Layout = Mapping[str, tuple[tuple[int, ...], str]]  # tensor name -> shape and number format, by torch's names


def raw(dtype: str) -> np.dtype:
    """How numpy holds a format; bfloat16, which it lacks, as uint16."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)


def size(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a tensor."""
    return prod(shape) * raw(dtype).itemsize


def master(dtype: str) -> str:
    """The format deltas are kept in: fp32 (fp64 for an fp64 model). Half precision would lose up to 20 % of a delta."""
    return "float64" if dtype == "float64" else "float32"


def widened(values: np.ndarray, dtype: str, out: np.ndarray | None = None) -> np.ndarray:
    """Raw values of a format as numbers: floats as fp32 or fp64 (in `out`, if given), all else as they are."""
    if dtype not in FLOATS:
        return values
    out = np.empty(values.size, master(dtype)) if out is None else out
    if dtype == "bfloat16":
        loops.from_bfloat16(values, out)
    else:
        out[:] = values
    return out


def narrowed(values: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers as raw values of a format, rounded to the nearest."""
    if dtype == "bfloat16":
        out = np.empty(values.size, np.uint16)
        loops.to_bfloat16(values.astype(np.float32, copy=False), out)
        return out
    return np.ascontiguousarray(values, raw(dtype))


def mergeable(layout: Layout) -> Layout:
    """The floating-point part of a layout, sorted by name."""
    return {name: layout[name] for name in sorted(layout) if layout[name][1] in FLOATS}


def check_layout(expected: Layout, found: Layout, label: str, mixed: bool = False) -> None:
    """Raise BadInput unless two layouts agree and every floating-point format is one we can merge.

    With `mixed`, formats of one master (fp16, bf16 and fp32) may stand for one another.
    """
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unexpected:
        raise BadInput(f"{label}: missing {_listed(missing)}; unexpected {_listed(unexpected)}, compared with the base")
    wrong = [
        f"{n} is {_shown(*found[n])}, not {_shown(*expected[n])}"
        for n in sorted(expected)
        if found[n] != expected[n] and not (mixed and _alike(found[n], expected[n]))
    ]
    if wrong:
        raise BadInput(f"{label}: {_listed(wrong)} as in the base")
    exotic = [f"{n} is {dtype}" for n, (_, dtype) in sorted(expected.items()) if dtype not in CODES]
    if exotic:
        raise BadInput(f"{label}: can merge fp16, bf16, fp32 and fp64, but {_listed(exotic)}")


def _alike(one: tuple, other: tuple) -> bool:
    (shape, dtype), (same, wanted) = one, other
    return shape == same and {dtype, wanted} <= set(FLOATS) and master(dtype) == master(wanted)


def _shown(shape: tuple[int, ...], dtype: str) -> str:
    return f"{list(shape)} {dtype}"


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return (", ".join(items[:SHOWN]) or "nothing") + more
