"""What the result of a notebook depends on, part by part, so that the runner can say which part has changed.

Parts are named for people (``clipmerge.study.condu.protocol``, ``profile finetune.lr``), valued by digest, and
gathered before anything runs. Of the library what the cells can reach counts (`codehash`); nothing is imported, which
keeps the check of an unchanged notebook far below a second.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path

from nbformat import NotebookNode

from clipmerge import files, paths
from clipmerge.book import notebooks
from clipmerge.study.cache import codehash
from clipmerge.study.profiles import Profile

PACKAGE = Path(__file__).resolve().parents[1]


def parts(nb: NotebookNode, profile: Profile, seed: int, out: Path) -> dict[str, str]:
    """Every part that the outputs of a notebook depend on, with its digest."""
    sources = [cell.source for cell in notebooks.code_cells(nb)]
    found = {"code cells": files.digest(sources), "seed": str(seed), "output folder": str(out)}
    found |= {f"profile {key}": files.digest(value) for key, value in _flat(asdict(profile))}
    found |= codehash.library(re.sub(r"^\s*[%!].*$", "", each, flags=re.MULTILINE) for each in sources)
    used = [*PACKAGE.rglob("*.json"), paths.REPO / "requirements.lock"]  # json: model configurations
    for pattern in notebooks.manifests(nb):
        used += paths.manifests().glob(pattern)
    return found | {_name(path): _digest(path) for path in used if path.is_file()}


def read(nb: NotebookNode, out: Path) -> dict[str, str]:
    """The csv of other notebooks that this one reads, of its own profile and overnight's, with their digests."""
    folders = (out, paths.figures("overnight"))
    found = [path for folder in folders for pattern in notebooks.reads(nb) for path in folder.glob(f"{pattern}.csv")]
    return {f"{path.parent.name}/{path.name}": _digest(path) for path in sorted(found)}


def written(nb: NotebookNode, out: Path) -> dict[str, str]:
    """The csv of the figures and tables that a notebook declares, with their digests; none where there is no record."""
    ids = [id for id in notebooks.outputs(nb) if (out / f"{id}.json").is_file() and (out / f"{id}.csv").is_file()]
    return {id: _digest(out / f"{id}.csv") for id in ids}


def changed(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Names of the parts that differ, those that are on one side only included."""
    return [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]


def _digest(path: Path) -> str:
    stat = path.stat()
    return _digest_of(path, stat.st_size, stat.st_mtime_ns)


@cache
def _digest_of(path: Path, _size: int, _modified: int) -> str:
    return files.sha256(path)


def _flat(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _name(path: Path) -> str:
    return path.relative_to(paths.REPO).as_posix()
