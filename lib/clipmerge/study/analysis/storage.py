"""What a learner keeps, in bytes: the formulas, and what is really in a file.

ConDU keeps one fp32 delta for all tasks and, for each task, a mask of one bit per coordinate, a rescaler and a set of
prototypes. The base is needed either way and not counted.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from clipmerge.merge.bitmask import packed_size

FLOAT = 4  # bytes


def expert(sizes: Iterable[int]) -> int:
    """One whole expert: fp32 for every coordinate of tensors of the given sizes."""
    return FLOAT * sum(sizes)


def mask(sizes: Iterable[int]) -> int:
    """One packed mask; every tensor starts on a byte of its own."""
    return sum(packed_size(size) for size in sizes)


def condu(sizes: Iterable[int], tasks: int) -> int:
    """The unified delta and the masks of `tasks` tasks (rescalers and prototypes apart)."""
    sizes = list(sizes)
    return expert(sizes) + tasks * mask(sizes)


def prototypes(classes: int, dim: int) -> int:
    """One fp32 vector of the embedding for each class."""
    return FLOAT * classes * dim


def lora(shapes: Mapping[str, tuple[int, ...]], rank: int) -> int:
    """The two factors, r × inputs and outputs × r, for the matrices of both towers' MLPs (`c_fc`, `c_proj`)."""
    adapted = [shape for name, shape in shapes.items() if name.endswith(("c_fc.weight", "c_proj.weight"))]
    return FLOAT * rank * sum(sum(shape) for shape in adapted)


def payload(path: Path) -> int:
    """Bytes of all tensors in a safetensors file: its size without the header, as the header itself tells."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    ends = [about["data_offsets"][1] for name, about in header.items() if name != "__metadata__"]
    assert path.stat().st_size == 8 + length + max(ends, default=0)
    return max(ends, default=0)
