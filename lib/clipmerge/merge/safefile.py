"""Safetensors files in pieces: read the header alone, read any part of a tensor, write tensors as they come."""

import json
import mmap
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
from torch import Tensor

from clipmerge import files
from clipmerge.errors import BadInput
from clipmerge.merge.registry import among

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
CODES = {dtype: code for code, dtype in DTYPES.items()}
BACKENDS = ("pread", "mmap")
Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
Put = Callable[[str, int, Tensor], None]  # tensor name, first element, values: written in the file's dtype


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself: shape and dtype per tensor, where each begins, the `meta` record."""

    path: Path
    layout: Layout
    begins: Mapping[str, int]
    meta: Mapping[str, object]

    @property
    def label(self) -> str:
        """The file's name, for errors."""
        return self.path.name


def size(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of a tensor."""
    return prod(shape) * dtype.itemsize


def header(path: str | Path) -> Header:
    """Read and check a header; a missing, foreign or damaged file is one sentence naming it."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            length, end = int.from_bytes(file.read(8), "little"), path.stat().st_size
            entries = json.loads(file.read(length)) if 0 < length <= end - 8 else None
    except (FileNotFoundError, IsADirectoryError):
        raise BadInput(f"{path}: expected a safetensors file, found nothing there") from None
    except ValueError:  # also UnicodeDecodeError
        entries = None
    if not isinstance(entries, dict):
        raise BadInput(f"{path}: expected a safetensors file, found another format (for .pt: clipmerge convert)")
    try:
        return _parse(path, entries, 8 + length, end)
    except BadInput:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: expected a whole safetensors file, found a damaged header ({error!r})") from None


def _parse(path: Path, entries: dict, data: int, end: int) -> Header:
    meta = json.loads((entries.pop("__metadata__", None) or {}).get("meta", "{}"))
    layout, begins = {}, {}
    for name, entry in entries.items():
        if entry["dtype"] not in DTYPES:
            raise BadInput(f"{path}: {name} should be one of {', '.join(DTYPES)}, found {entry['dtype']}")
        layout[name] = (tuple(entry["shape"]), DTYPES[entry["dtype"]])
        begin, stop = entry["data_offsets"]
        begins[name] = data + begin
        if stop - begin != size(*layout[name]) or begin < 0 or data + stop > end:
            raise BadInput(f"{path}: {name} should take {size(*layout[name])} bytes inside the file; it is cut short")
    return Header(path, layout, begins, meta)


@contextmanager
def reading(file: Header, backend: str = "pread") -> Iterator[Callable[..., Tensor]]:
    """Yield a reader (tensor name, start, stop) → 1-d tensor in the file's dtype.

    With a fourth argument `out`, a 1-d array, the values are put there and converted to its dtype on the way. "pread"
    copies what is asked for; "mmap" maps the file, a little faster, but its pages count as resident memory.
    """
    among("backend", backend, BACKENDS)
    with open(file.path, "rb", buffering=0) as handle:
        mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY) if backend == "mmap" else None

        def read(name: str, start: int, stop: int, out: np.ndarray | None = None) -> Tensor:
            dtype = file.layout[name][1]
            offset, wanted = file.begins[name] + start * dtype.itemsize, (stop - start) * dtype.itemsize
            target = None if out is None else torch.from_numpy(out)
            if target is not None and (mapped is not None or target.dtype != dtype):
                return target.copy_(read(name, start, stop))
            if not wanted:
                return torch.empty(0, dtype=dtype)
            if mapped is not None:
                return torch.frombuffer(mapped, dtype=dtype, count=stop - start, offset=offset)
            values = torch.empty(stop - start, dtype=dtype) if target is None else target
            if os.preadv(handle.fileno(), [values.view(torch.uint8).numpy()], offset) != wanted:
                raise BadInput(f"{file.path}: {name} should take {wanted} more bytes; the file has been cut short")
            return values

        yield read


@contextmanager
def writing(path: str | Path, layout: Layout, meta: Mapping | None = None) -> Iterator[Put]:
    """Yield `put`, by which any thread writes any part of any tensor; the file appears whole at the end, or not at all.

    Same layout, values and meta give the same bytes: widest dtypes first (for alignment), then by name.
    """
    names = sorted(layout, key=lambda name: (-layout[name][1].itemsize, name))
    entries, end = {}, 0
    for name in names:
        shape, dtype = layout[name]
        entries[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [end, end + size(shape, dtype)]}
        end += size(shape, dtype)
    record = {} if meta is None else {"__metadata__": {"meta": json.dumps(meta, sort_keys=True)}}
    text = json.dumps(record | entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    data = 8 + len(text)
    with files.atomic(path) as partial, open(partial, "r+b", buffering=0) as handle:
        handle.truncate(data + end)
        _write(handle.fileno(), len(text).to_bytes(8, "little") + text, 0)

        def put(name: str, start: int, values: Tensor) -> None:
            dtype = layout[name][1]
            content = values.to(dtype).contiguous().view(torch.uint8).numpy().data
            _write(handle.fileno(), content, data + entries[name]["data_offsets"][0] + start * dtype.itemsize)

        yield put


def _write(handle: int, content: bytes | memoryview, offset: int) -> None:
    content = memoryview(content)
    while content:
        written = os.pwrite(handle, content, offset)
        content, offset = content[written:], offset + written


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes `path` at the end, or vanishes; `path` must not exist yet."""
    path = Path(path)
    if path.exists():
        raise BadInput(f"{path}: expected a folder that is not there yet, found one (sessions are never overwritten)")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
    try:
        yield partial
        partial.chmod(0o777 & ~files._umask())
        files.fsync_folder(partial)
        os.rename(partial, path)
        files.fsync_folder(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
