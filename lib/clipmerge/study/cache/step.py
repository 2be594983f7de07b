"""One step of an experiment and its content key.

Steps form a graph: an input of a step is a file or another step. The key covers the code a step runs, its
configuration, the keys of its inputs, seed and torch version, and is known before anything runs. A step that shows
something to a model says in its configuration where (``compute``, see `clip.device`); the others stay on the CPU.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from clipmerge import files, paths
from clipmerge.errors import BadInput
from clipmerge.study.cache import codehash

DONE = "DONE.json"


@dataclass(frozen=True, eq=False)
class Step:
    """A function, what goes into it, and the key that follows."""

    fn: Callable
    name: str  # for people: part of the folder's path, not of the key
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, "Step | Path"] = field(default_factory=dict)
    seed: int = 0
    parts: dict[str, Any] = field(init=False, repr=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        """Reduce `config` to plain values and derive the key, once and for all."""
        if not re.fullmatch(r"[\w+-][\w.+-]*(/[\w+-][\w.+-]*)*", self.name):
            raise BadInput(f"step name: expected letters, digits, . _ + - and slashes between, found {self.name!r}")
        parts = {
            **surroundings(self.fn),
            "function": f"{self.fn.__module__}.{self.fn.__qualname__}",
            "config": _plain(self.config, self.name),
            "inputs": {name: _identity(value, f"{self.name}: {name}") for name, value in self.inputs.items()},
            "seed": self.seed,
        }
        for attribute, value in {"config": parts["config"], "parts": parts, "key": files.digest(parts)}.items():
            object.__setattr__(self, attribute, value)

    @property
    def folder(self) -> Path:
        """Where its files are once it has run."""
        return paths.cache("steps", *self.name.split("/"), self.key[:20])


def surroundings(fn: Callable) -> dict[str, Any]:
    """The part of a key that hangs on this process: code and torch."""
    return {"code": codehash.digests(fn), "torch": ".".join(torch.__version__.split(".")[:2])}


def _plain(config: Mapping, name: str) -> dict[str, Any]:
    def simplify(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        if isinstance(value, Mapping):
            return dict(value)
        raise TypeError(f"a {type(value).__name__}")

    try:
        return json.loads(json.dumps(config, default=simplify, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadInput(f"step {name}: config: expected plain values (files go to inputs), found {error}") from None


def _identity(value: Step | Path, name: str) -> str:
    """A digest of an input: the key of a step or of a step's folder, the bytes of a file."""
    if isinstance(value, Step):
        return value.key
    path = Path(value)
    if (path / DONE).is_file():
        return json.loads((path / DONE).read_text(encoding="utf8"))["key"]
    if not path.is_file():
        raise BadInput(f"step {name}: expected a step, a step's folder or a file, found {str(value)!r}")
    stat = path.stat()
    return _sha256(path.resolve(), stat.st_size, stat.st_mtime_ns)


@cache
def _sha256(path: Path, _size: int, _modified: int) -> str:
    return files.sha256(path)


def changes(old: Mapping, new: Mapping) -> list[str]:
    """What differs between the `parts` of two steps, one phrase each."""
    before, after = _flat(old), _flat(new)
    phrases = []
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) == after.get(key) and key in before and key in after:
            continue
        if key.startswith(("code.", "inputs.")):  # digests say nothing to people
            phrases.append(f"{key} changed")
        else:
            phrases.append(f"{key} {before.get(key, '(none)')} → {after.get(key, '(none)')}")
    return phrases


def _flat(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
