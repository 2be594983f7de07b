"""FoMo-in-Flux (arXiv 2408.14471): 63 sets with captions, streams of (set, class) pairs, three retrieval sets.

Its authors spread images as archives and everything else in their repository. `bring_in` reads a clone of that
repository with the archives extracted in ``data/`` (their own script does this). Replayed LAION pairs are not spread.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor

from clipmerge import files, paths
from clipmerge.clip.data import external, locks, packing, yamls
from clipmerge.clip.data.images import Sample
from clipmerge.clip.data.packing import Row
from clipmerge.clip.data.packs import Pack
from clipmerge.errors import BadInput

INFO = "data_lib/00_info"
Item = TypeVar("Item")


@dataclass(frozen=True)
class Set:
    """One set: adapted to or held out, classified or retrieved; `train` and `test` are its parts' names in files."""

    name: str
    role: str
    task: str
    prompt: str
    classes: int
    train: str = "train"
    test: str = "test"

    @property
    def parts(self) -> Mapping[str, str]:
        """Names in files by side; of a held-out set only the test part is used."""
        return {"test": self.test} if self.role == "heldout" else {"train": self.train, "test": self.test}


@functools.cache
def sets() -> Mapping[str, Set]:
    """The 63 sets of ``data_manifests/external/fomo.yaml`` by the names of their archives."""
    return {name: Set(name, **entry) for name, entry in _manifest()["sets"].items()}


def size_mb() -> float:
    """What all archives together take, as their authors say."""
    return float(_manifest()["mb"])


@functools.cache
def _manifest() -> Mapping:
    return yamls.read(external.FOLDER / "fomo.yaml", "fomo.schema.json")


def find(name: str) -> Set:
    """The set of this name; streams and archives spell it differently (``oxford_pets``, ``OXFORDPETS``)."""
    known = _spelt(tuple(sets()))
    plain = external.plain(name)
    if plain not in known:
        raise BadInput(f"FoMo-in-Flux: expected one of its {len(known)} sets, found {name!r}")
    return sets()[known[plain]]


@functools.cache
def _spelt(names: tuple[str, ...]) -> Mapping[str, str]:
    return {external.plain(name): name for name in names}


def bring_in(root: Path) -> tuple[list[str], list[str]]:
    """Pack every set whose images lie in ``root/data`` and take over the streams; returns (packed, missing) names.

    Sets that are packed already are left as they are, so an interrupted import goes on where it stopped.
    """
    if not (root / INFO).is_dir():
        raise BadInput(f"{root}: expected a clone of fomo_in_flux with {INFO}, found none")
    for path in sorted((root / "stream_construction").glob("*.json")):
        files.write_json(_stream_path(path.stem), _entries(path))
    here = [one for one in sets().values() if (root / "data" / one.name).is_dir()]
    for one in here:
        if not locks.ready(f"fomo/{one.name}"):
            _pack(one, root)
    present = {one.name for one in here}
    return sorted(present), sorted(set(sets()) - present)


def _pack(one: Set, root: Path) -> None:
    classes = files.read_json(root / INFO / f"{one.name}_classnames.json") if one.classes else []
    if len(classes) != one.classes:
        raise BadInput(f"{one.name}: expected {one.classes} class names, found {len(classes)}")
    records = {side: _records(one, part, root) for side, part in one.parts.items()}
    counts = {side: len(records.get(side, ())) for side in external.SIDES}
    meta = {"name": f"fomo/{one.name}", "source": "fomo_in_flux", "revision": None}

    def arrange(rows: list[Row]) -> list[Row]:
        outside = [row for row in rows if one.classes and not 0 <= row.label < one.classes]
        if outside:
            raise BadInput(f"{one.name}: expected targets from 0 to {one.classes - 1}, found {outside[0].label}")
        packing.check_counts(one.name, rows, counts, 0)
        return rows

    locks.pack({**meta, "classes": classes}, _samples(one, records, root), sum(counts.values()), arrange)


def _records(one: Set, part: str, root: Path) -> Mapping[str, Mapping]:
    """Records of one part by image path: those of the copies shrunk to 224 pixels, where the archive holds these."""
    shrunk = f"{one.name}_{part}_224"
    stem = shrunk if (root / "data" / one.name / shrunk).is_dir() else f"{one.name}_{part}"
    return files.read_json(root / INFO / f"{stem}.json")


def _samples(one: Set, records: Mapping[str, Mapping[str, Mapping]], root: Path) -> Iterator[Sample]:
    for side, images in records.items():
        for path, record in images.items():
            file = root / "data" / one.name / path
            if not file.is_file():
                raise BadInput(f"{file}: expected an image of {one.name}, found none; extract its archive again")
            yield Sample(side, record["target"], path, file.read_bytes(), captions(record))


def captions(record: Mapping) -> tuple[str, ...]:
    """What an image is trained with: its own captions, else synthetic ones with the class name, else the prompt."""
    chosen = record["default_caption"] or record["synthetic_merged_caption"] or record["primer_caption"]
    return (chosen,) if isinstance(chosen, str) else tuple(chosen or ())


def _entries(path: Path) -> list[list[str]]:
    """A stream file: (set, class) pairs, each written ``SET+++class``."""
    entries = files.read_json(path)
    if not isinstance(entries, list) or not all(isinstance(e, str) and e.count("+++") == 1 for e in entries):
        raise BadInput(f"{path}: expected a list of SET+++class, found something else")
    split = [entry.split("+++") for entry in entries]
    names = {name: find(name).name for name in {name for name, _ in split}}
    return [[names[name], label] for name, label in split]


def _stream_path(name: str) -> Path:
    return paths.cache("external", "fomo", "streams", f"{name}.json")


def stream(name: str, tasks: int) -> list[list[tuple[str, str]]]:
    """The stream `name` (``random_sequence_1``, say) as `tasks` lists of (set, class) pairs."""
    if not _stream_path(name).exists():
        folder = _stream_path(name).parent
        raise BadInput(f"stream {name!r}: expected it in {folder}, found none; `clipmerge data import-fomo` brings it")
    return chunks([tuple(pair) for pair in files.read_json(_stream_path(name))], tasks)


def chunks(sequence: Sequence[Item], tasks: int) -> list[list[Item]]:
    """Cut a sequence into `tasks` parts in order, sizes as equal as can be, the larger ones first."""
    if not 1 <= tasks <= len(sequence):
        raise BadInput(f"tasks: expected from 1 to {len(sequence)}, found {tasks}")
    size, more = divmod(len(sequence), tasks)
    starts = [i * size + min(i, more) for i in range(tasks + 1)]
    return [list(sequence[a:b]) for a, b in zip(starts, starts[1:], strict=False)]


def retrieval(captions: Sequence[Sequence[str]]) -> tuple[list[str], Int64[Tensor, " m"]]:
    """All captions of some images, and the number of the image that each describes: what `recall` compares."""
    counts = torch.tensor([len(own) for own in captions], dtype=torch.int64)
    return list(chain(*captions)), torch.repeat_interleave(torch.arange(len(captions)), counts)


def load(name: str) -> Pack:
    """The pack of a set; its class names are ``pack.meta["classes"]``, its captions ``pack.test.texts(index)``."""
    return locks.load(f"fomo/{find(name).name}")
