"""What is packed here: the folder of each set's pack, and its lock; checks of both.

The lock of a set lies beside its pack in the cache, not in the repository: it says what this cache holds (source,
commit, digests), it travels with a cache folder that machines share, and a first download changes no committed file.
It stays when a pack is deleted, so the set that comes back must be the same one, from the same commit.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from clipmerge import files, paths
from clipmerge.clip.data import packing, packs
from clipmerge.clip.data.images import Sample
from clipmerge.clip.data.packing import Row
from clipmerge.clip.data.packs import Pack
from clipmerge.errors import BadInput


def folder(name: str) -> Path:
    """Where the pack of a set lies (``fomo/NAME`` for a set of FoMo-in-Flux)."""
    return paths.cache("external", *name.split("/"))


def lock_path(name: str) -> Path:
    """The lock of a set, beside its pack."""
    return folder(name).with_name(f"{folder(name).name}.lock.json")


def lock(name: str) -> dict | None:
    """What a set's lock says: source, commit, digests; None if the set was never made here."""
    return files.read_json(lock_path(name)) if lock_path(name).exists() else None


def ready(name: str) -> bool:
    """Is the set packed and locked?"""
    return lock_path(name).exists() and (folder(name) / packs.INDEX).exists()


def load(name: str) -> Pack:
    """Open a set's pack; its digest is compared with the lock's, its images are read when they are needed."""
    if not ready(name):
        raise BadInput(f"{name}: expected a pack in {folder(name)}, found none; `{remedy(name)}` makes it")
    pack = packs.load(folder(name))
    if pack.digest != lock(name)["digest"]:
        raise BadInput(f"{name}: expected the pack with digest {lock(name)['digest']}, found {pack.digest}")
    return pack


def remedy(name: str) -> str:
    """The command that makes a set's pack."""
    return "clipmerge data import-fomo PATH" if "/" in name else f"clipmerge data get {name}"


def check(name: str) -> dict:
    """Read a whole pack and compare it with its lock; returns the lock."""
    load(name)
    found = packs.file_digest(folder(name))
    if found != lock(name)["files"]:
        raise BadInput(
            f"{folder(name)}: expected files with sha256 {lock(name)['files']}, found {found}; delete this folder and"
            f" run `{remedy(name)}` again"
        )
    return lock(name)


def pack(meta: Mapping, samples: Iterable[Sample], total: int, arrange: Callable[[list[Row]], list[Row]]) -> dict:
    """Write a pack and its lock; a set that was locked before must come out the same. Returns the lock."""
    name = meta["name"]
    with _alone(name):
        bar = tqdm(samples, desc=name, total=total, unit="image", disable=None, leave=False)
        packing.write(folder(name), iter(bar), meta, arrange)
        made = {**meta, "digest": packs.load(folder(name)).digest, "files": packs.file_digest(folder(name))}
        before = lock(name)
        if before and before["digest"] != made["digest"]:
            shutil.rmtree(folder(name))
            raise BadInput(
                f"{name}: expected the images of {before['source']} with digest {before['digest']}, found"
                f" {made['digest']} from {made['source']}; delete {lock_path(name)} to take these"
            )
        files.write_json(lock_path(name), made)
        return made


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """One process at a time makes a set."""
    path = folder(name).with_name(f".{folder(name).name}.busy")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise BadInput(f"{name}: expected no other process at work on it, found one ({path} is locked)") from None
