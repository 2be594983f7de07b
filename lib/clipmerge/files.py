"""Files that are either whole or absent: atomic writes, digests, safetensors with one metadata key.

safetensors 0.8 has two habits worked around here: it leaves files at mode 0600 whatever the umask, and with two or
more metadata keys its bytes differ from process to process. So every tensor file goes through `save_tensors`.

torch is imported where tensors are: the notebook runner needs only the rest, and answers "nothing to do" in a second.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp
from typing import TYPE_CHECKING, Any

import safetensors

from clipmerge.errors import BadInput

if TYPE_CHECKING:
    import torch


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut (a no-op where folders cannot be opened)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success it is fsynced and renamed over `path`, on failure removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=f".partial{path.suffix}")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        os.chmod(partial, 0o666 & ~_umask())
        with open(partial, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
        fsync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf8")


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as sorted, indented JSON, atomically: equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON; a missing or damaged file is one sentence naming it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: expected a JSON file, found {error}") from None


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    """Hex digest of a JSON-able value, independent of the order of mapping keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def save_tensors(path: str | Path, tensors: Mapping[str, "torch.Tensor"], meta: Mapping | None = None) -> None:
    """Save tensors (and JSON-able `meta`) as safetensors, atomically and byte-stable for equal input."""
    from safetensors.torch import save_file

    kept = {name: tensors[name].detach().contiguous().cpu() for name in sorted(tensors)}
    header = {"meta": json.dumps(meta, sort_keys=True)} if meta is not None else None
    with atomic(path) as partial:
        save_file(kept, partial, metadata=header)


def load_tensors(path: str | Path) -> dict[str, "torch.Tensor"]:
    """Load every tensor of a safetensors file; a damaged file is one sentence naming it."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise BadInput(f"{path}: expected a safetensors file, found nothing there") from None
    except safetensors.SafetensorError as error:
        raise BadInput(f"{path}: expected a whole safetensors file, found a damaged one ({error})") from None


def load_meta(path: str | Path) -> dict:
    """The `meta` record of a file written by `save_tensors` ({} if it has none)."""
    with safetensors.safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get("meta", "{}"))
