"""Real sets under the names that profiles use: MTIL's by title (``Aircraft``), FoMo-in-Flux's as ``fomo/CUB200``.

What their manifests say is known before anything is downloaded; digests, and FoMo's class names, once the pack is here.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

from clipmerge import files
from clipmerge.clip.data import external, fomo, locks, packs

FOMO = "fomo/"


def known(name: str) -> bool:
    """Whether this is a real set's name (as it is written: ``Food`` is real, ``food`` comes with a package)."""
    return name.startswith(FOMO) or name in _titles()


@functools.cache
def _titles() -> Mapping[str, str]:
    return {external.load(name).title: name for name in external.names()}


def key(name: str) -> str:
    """The set's name in commands and in the cache."""
    return f"{FOMO}{fomo.find(name.removeprefix(FOMO)).name}" if name.startswith(FOMO) else _titles()[name]


def about(name: str) -> dict[str, object]:
    """The fields of a `manifests.Manifest`."""
    found = locks.lock(key(name)) or {}
    common = {"name": name, "position": 0, "decoder": "", "packages": (), "digest": found.get("digest", "")}
    if name.startswith(FOMO):
        return {**common, **_fomo(name, found)}
    one = external.load(key(name))
    told = {field: getattr(one, field) for field in ("title", "licence", "citation", "templates", "counts")}
    classes = tuple(one.classes.values())
    return {**common, **told, "classes": classes, "group": "mtil", "split": one.split.note, "open_licence": False}


def _fomo(name: str, lock: Mapping) -> dict[str, object]:
    one = fomo.find(name.removeprefix(FOMO))
    index = locks.folder(key(name)) / packs.INDEX
    return {
        "title": one.name,
        "licence": "the set's own",
        "citation": "Roth et al., A Practitioner's Guide to Continual Multimodal Pretraining, 2024",
        "templates": (one.prompt,),
        # until its names are known, numbers stand for them: a plan needs no more
        "classes": tuple(lock.get("classes", map(str, range(one.classes)))),
        "counts": _counts(index, index.stat().st_mtime_ns) if index.exists() else {"train": 0, "test": 0},
        "group": FOMO.strip("/"),
        "split": f"parts {one.train} and {one.test}",
        "open_licence": False,
    }


@functools.cache
def _counts(index: Path, _modified: int) -> Mapping[str, int]:
    return files.load_meta(index)["counts"]


def missing(name: str) -> str:
    """The command that brings a set whose pack is not here; empty if it is."""
    return "" if locks.ready(key(name)) else locks.remedy(key(name))
