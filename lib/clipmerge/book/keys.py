"""What the result of a notebook depends on, part by part, so that the runner can say which part has changed.

Parts are named for people (``lib/clipmerge/study/mtil.py``, ``profile finetune.lr``), valued by digest, and gathered
before anything runs. Nothing is imported for it: the library's files are parsed and their imports followed, which
keeps the check of an unchanged notebook far below a second.
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path

from nbformat import NotebookNode

from clipmerge import files, paths
from clipmerge.book import notebooks
from clipmerge.study.profiles import Profile

PACKAGE = Path(__file__).resolve().parents[1]
LIB = PACKAGE.parent


def parts(nb: NotebookNode, profile: Profile, seed: int, out: Path) -> dict[str, str]:
    """Every part that the outputs of a notebook depend on, with its digest."""
    sources = [cell.source for cell in notebooks.code_cells(nb)]
    found = {"code cells": files.digest(sources), "seed": str(seed), "output folder": str(out)}
    found |= {f"profile {key}": files.digest(value) for key, value in _flat(asdict(profile))}
    used = [*library(sources), *PACKAGE.rglob("*.json"), paths.REPO / "requirements.lock"]  # json: model configurations
    for pattern in notebooks.manifests(nb):
        used += paths.manifests().glob(pattern)
    return found | {_name(path): _digest(path) for path in used if path.is_file()}


def changed(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Names of the parts that differ, those that are on one side only included."""
    return [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]


def library(sources: Iterable[str]) -> list[Path]:
    """Files of clipmerge that these texts of code import, directly or through one another."""
    found: set[Path] = set()
    waiting = [path for source in sources for path in _imported(source, ())]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            package = path.relative_to(LIB).parts[:-1]
            waiting += _imported(path.read_text(encoding="utf8"), package)
    return sorted(found)


def _imported(source: str, package: tuple[str, ...]) -> Iterator[Path]:
    for node in ast.walk(ast.parse(re.sub(r"^\s*[%!].*$", "", source, flags=re.MULTILINE))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield from _files_of(name)


def _files_of(dotted: str) -> Iterator[Path]:
    """The module of a dotted name and the packages above it; a name inside a module counts as that module."""
    here = LIB
    names = dotted.split(".")
    for name in names if names[0] == PACKAGE.name else []:
        here = here / name
        if (here / "__init__.py").exists():
            yield here / "__init__.py"
        elif here.with_suffix(".py").exists():
            yield here.with_suffix(".py")


def _digest(path: Path) -> str:
    stat = path.stat()
    return _digest_of(path, stat.st_size, stat.st_mtime_ns)


@cache
def _digest_of(path: Path, _size: int, _modified: int) -> str:
    """Digest of a file; of Python it is what the module does that counts, not its comments and layout."""
    if path.suffix != ".py":
        return files.sha256(path)
    return hashlib.sha256(ast.dump(ast.parse(path.read_text(encoding="utf8"))).encode()).hexdigest()


def _flat(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _name(path: Path) -> str:
    return path.relative_to(paths.REPO if path.is_relative_to(paths.REPO) else LIB.parent).as_posix()
