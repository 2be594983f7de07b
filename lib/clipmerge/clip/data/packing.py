"""Writing packs: one pass over a source's images, whatever their order, then the index."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from clipmerge import files
from clipmerge.clip.data import images, packs
from clipmerge.clip.data.external import SIDES
from clipmerge.clip.data.images import Packed, Sample
from clipmerge.clip.data.threads import in_order
from clipmerge.errors import BadInput


class Row(NamedTuple):
    """What is kept of an image while its pack is written: some hundred bytes."""

    side: str
    label: int
    name: str
    digest: bytes
    span: tuple[int, int]
    caption_digest: bytes
    caption_span: tuple[int, int]


def write(
    target: Path,
    samples: Iterable[Sample],
    meta: Mapping,
    arrange: Callable[[list[Row]], list[Row]] = list,
    threads: int = packs.THREADS,
) -> None:
    """Pack `samples` into the folder `target`, which appears whole or not at all; an old one is replaced.

    `arrange` gets all rows and gives them back with sides, or refuses them: splits and counts are checked there.
    """
    with folder(target) as partial:
        with open(partial / packs.IMAGES, "wb") as stored, open(partial / packs.CAPTIONS, "wb") as captions:
            packed = in_order(images.pack, samples, threads, 4 * threads)
            rows = arrange([_store(one, stored, captions) for one in packed])
            for file in (stored, captions):
                file.flush()
                os.fsync(file.fileno())
        rows.sort(key=lambda row: (SIDES.index(row.side), row.label, row.digest, row.caption_digest))
        counts = {side: sum(row.side == side for row in rows) for side in SIDES}
        files.save_tensors(partial / packs.INDEX, _index(rows), {**meta, "counts": counts})


def _store(packed: Packed, stored: BinaryIO, captions: BinaryIO) -> Row:
    sample = packed.sample
    text = json.dumps(sample.captions, ensure_ascii=False).encode() if sample.captions else b""
    spans = [(file.tell(), file.write(data)) for file, data in ((stored, packed.data), (captions, text))]
    return Row(sample.side, sample.label, sample.name, packed.digest, spans[0], hashlib.sha256(text).digest(), spans[1])


def _index(rows: list[Row]) -> dict[str, Tensor]:
    """Columns of the index; numpy joins the digests without a Python object for each byte."""

    def digests(values: list[bytes]) -> Tensor:
        return torch.from_numpy(np.frombuffer(b"".join(values), np.uint8).reshape(-1, 32).copy())

    return {
        "labels": torch.tensor([row.label for row in rows], dtype=torch.int64),
        "spans": torch.tensor([row.span for row in rows], dtype=torch.int64).reshape(-1, 2),
        "captions": torch.tensor([row.caption_span for row in rows], dtype=torch.int64).reshape(-1, 2),
        "digests": digests([row.digest for row in rows]),
        "caption_digests": digests([row.caption_digest for row in rows]),
    }


@contextmanager
def folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target`, renamed to it at the end; on failure it is removed and `target` stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as private:
        partial = Path(private) / target.name  # made here, it has the modes that the reader's umask gives
        partial.mkdir()
        yield partial
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        files.fsync_folder(target.parent)


def check_counts(title: str, rows: list[Row], counts: Mapping[str, int], classes: int) -> None:
    """Refuse a set whose parts have other sizes than expected, or a class without a train image."""
    found = {side: sum(row.side == side for row in rows) for side in SIDES}
    if found != dict(counts):
        raise BadInput(f"{title}: expected {dict(counts)} images, found {found}")
    missing = set(range(classes)) - {row.label for row in rows if row.side == "train"}
    if missing:
        raise BadInput(f"{title}: expected train images of all {classes} classes, found none of number {min(missing)}")
