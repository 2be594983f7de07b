"""Packs: all images of a set in one file, with an index; read lazily, image by image.

A pack is a folder: ``images.bin`` (files of images, one after another), ``captions.bin`` (lists of captions as JSON,
empty if there are none) and ``index.safetensors``. Its rows are the train images, then the test images, each sorted by
label, then by digest: the order, like the digest of the whole, depends on the images alone and on no folder's order.

Files are read with `os.pread`, not mapped: a mapped file cut short ends the process, and mapped pages count as memory.
"""

import hashlib
import json
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jaxtyping import Int64, UInt8
from torch import Tensor

from clipmerge import files
from clipmerge.clip.data import images
from clipmerge.clip.data.threads import in_order
from clipmerge.errors import BadInput

IMAGES, CAPTIONS, INDEX = "images.bin", "captions.bin", "index.safetensors"
THREADS = 4


class Blobs:
    """Byte strings in one file, read by offset and size (both in bytes); safe in threads and after a fork."""

    def __init__(self, path: Path) -> None:
        try:
            self.handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise BadInput(f"{path}: expected a file of a pack, found none") from None
        self.path = path
        weakref.finalize(self, os.close, self.handle)

    def __reduce__(self) -> tuple:
        """Copies, also those in other processes, open the file for themselves: a handle means nothing there."""
        return Blobs, (self.path,)

    def read(self, offset: int, size: int) -> bytes:
        """The `size` bytes at `offset`; a file that ends before is damaged."""
        data = os.pread(self.handle, size, offset)
        if len(data) < size:
            raise BadInput(f"{self.path}: expected {size} bytes at {offset}, found {len(data)}; the file was cut short")
        return data


@dataclass(frozen=True, eq=False)
class Side:
    """The train or the test images of a pack, with label numbers; nothing is decoded before it is asked for."""

    labels: Int64[Tensor, " n"]
    spans: Int64[Tensor, "n 2"]
    caption_spans: Int64[Tensor, "n 2"]
    images: Blobs
    captions: Blobs

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Int64[Tensor, " k"], threads: int = THREADS) -> list[UInt8[Tensor, "h w 3"]]:
        """Decode the images at `index`, by several threads: k tensors of various sizes, shorter sides ≤ 256."""
        return list(in_order(self._image, index.tolist(), threads, len(index)))

    def texts(self, index: Int64[Tensor, " k"]) -> list[list[str]]:
        """The captions of the images at `index`: one list each, empty in sets that have none."""
        spans = self.caption_spans[index].tolist()
        return [json.loads(self.captions.read(*span)) if span[1] else [] for span in spans]

    def stream(
        self, draws: Iterable[Int64[Tensor, " k"]], threads: int = THREADS, ahead: int = THREADS
    ) -> Iterator[tuple[Int64[Tensor, " k"], list[UInt8[Tensor, "h w 3"]]]]:
        """Batches (index, images) for each index of `draws`, in order; each thread decodes one, `ahead` wait.

        What a step gets is a function of its index alone: draw that from `training.generator(seed, step)`.
        """
        return in_order(self._batch, draws, threads, ahead)

    def _batch(self, index: Int64[Tensor, " k"]) -> tuple[Int64[Tensor, " k"], list[UInt8[Tensor, "h w 3"]]]:
        return index, [self._image(i) for i in index.tolist()]

    def _image(self, i: int) -> UInt8[Tensor, "h w 3"]:
        return images.decode(self.images.read(*self.spans[i].tolist()))


@dataclass(frozen=True, eq=False)
class Pack:
    """A set's train and test images, and the digest of all of them."""

    train: Side
    test: Side
    digest: str
    meta: Mapping


def load(folder: Path) -> Pack:
    """Open the pack in `folder`; its index (about 100 bytes an image) is read, its images are not."""
    index = files.load_tensors(folder / INDEX)
    meta = files.load_meta(folder / INDEX)
    blobs = Blobs(folder / IMAGES), Blobs(folder / CAPTIONS)
    columns = [index[name].clone() for name in ("labels", "spans", "captions")]  # the file is mapped: see above
    cut = meta["counts"]["train"]
    train = Side(*(column[:cut] for column in columns), *blobs)
    test = Side(*(column[cut:] for column in columns), *blobs)
    return Pack(train, test, digest(index, meta), meta)


def digest(index: Mapping[str, Tensor], meta: Mapping) -> str:
    """sha256 of a pack: counts, how images are shrunk, every label, the digests of every image and its captions."""
    counts = [meta["counts"][side] for side in ("train", "test")]
    total = hashlib.sha256(repr((*counts, images.SHORT, images.QUALITY)).encode())
    for key in ("labels", "digests", "caption_digests"):
        total.update(index[key].contiguous().numpy().data)
    return total.hexdigest()


def file_digest(folder: Path) -> str:
    """sha256 of the three files of a pack: damage anywhere shows here."""
    total = hashlib.sha256()
    for name in (IMAGES, CAPTIONS, INDEX):
        with open(folder / name, "rb") as file:
            for block in iter(partial(file.read, 1 << 20), b""):
                total.update(block)
    return total.hexdigest()
