"""Safetensors files in pieces: read the header alone, read any part of a tensor, write tensors as they come."""

import itertools
import json
import mmap
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from clipmerge import files
from clipmerge.errors import BadInput
from clipmerge.merge.layout import CODES, DTYPES, Layout, narrowed, raw, size, widened
from clipmerge.merge.registry import among

BACKENDS = ("pread", "mmap")
Put = Callable[[str, int, np.ndarray], None]  # tensor name, first element, values: written in the file's format


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

    @property
    def name(self) -> str:
        """What a task is called after it."""
        return self.path.stem

    @property
    def places(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def reading(self, backend: str = "pread") -> AbstractContextManager[Callable[..., np.ndarray]]:
        """`reading` of this file."""
        return reading(self, backend)


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
    placed = sorted((begins[name], begins[name] + size(*layout[name]), name) for name in layout)
    for (_, stop, one), (begin, _, other) in itertools.pairwise(placed):
        if begin < stop:
            raise BadInput(f"{path}: {one} and {other} should not overlap")
    return Header(path, layout, begins, meta)


@contextmanager
def reading(file: Header, backend: str = "pread") -> Iterator[Callable[..., np.ndarray]]:
    """Yield a reader (tensor name, start, stop[, out]) → 1-d array: floats as fp32 or fp64, all else as stored.

    With `out`, a 1-d array, the floats are put there, in its precision. "pread" copies what is asked for; "mmap" maps
    the file, a little faster, but its pages count as resident memory.
    """
    among("backend", backend, BACKENDS)
    with open(file.path, "rb", buffering=0) as handle:
        mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY) if backend == "mmap" else None

        def read(name: str, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
            dtype = file.layout[name][1]
            stored = raw(dtype)
            offset, wanted = file.begins[name] + start * stored.itemsize, (stop - start) * stored.itemsize
            direct = out is not None and out.dtype == stored and mapped is None
            if mapped is not None:
                values = np.frombuffer(mapped, stored, stop - start, offset)
            else:
                values = out if direct else np.empty(stop - start, stored)
                if wanted and os.preadv(handle.fileno(), [values], offset) != wanted:
                    raise BadInput(f"{file.path}: {name} should take {wanted} more bytes; the file has been cut short")
            return values if direct else widened(values, dtype, out)

        yield read


@contextmanager
def writing(path: str | Path, layout: Layout, meta: Mapping | None = None, force: bool = False) -> Iterator[Put]:
    """Yield `put`, by which any thread writes any part of any tensor; the file appears whole at the end, or not at all.

    A file that has come to be there meanwhile is replaced only with `force`.
    Same layout, values and meta give the same bytes: widest dtypes first (for alignment), then by name.
    """
    names = sorted(layout, key=lambda name: (-raw(layout[name][1]).itemsize, name))
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

        def put(name: str, start: int, values: np.ndarray) -> None:
            content = narrowed(values, layout[name][1])
            offset = data + entries[name]["data_offsets"][0] + start * content.itemsize
            _write(handle.fileno(), memoryview(content).cast("B"), offset)

        yield put
        if os.path.lexists(path) and not force:
            raise BadInput(f"{path}: expected nothing there, found what another run has written meanwhile")


def _write(handle: int, content: bytes | memoryview, offset: int) -> None:
    content = memoryview(content)
    while content:
        written = os.pwrite(handle, content, offset)
        content, offset = content[written:], offset + written


@contextmanager
def new_folder(path: str | Path, force: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes `path` at the end, or vanishes; `force` replaces an old one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
    fresh, old = partial / "new", partial / "old"
    fresh.mkdir()
    try:
        yield fresh
        files.fsync_folder(fresh)
        if os.path.lexists(path):
            if not force:
                raise BadInput(f"{path}: expected a folder that is not there yet, found one")
            os.rename(path, old)
        try:
            os.rename(fresh, path)
        except BaseException:
            if old.exists():
                os.rename(old, path)
            raise
        files.fsync_folder(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
