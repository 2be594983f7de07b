"""Images of packs that stand where Pocket's datasets have tensors, and are read when they are looked at.

A study picks, splits and joins images; only `finetune.crop` and `models.pixels` look at them. So `Unread` can be
indexed, split and concatenated like a tensor of images, and gives square views, cut on the device that uses them.
Memory holds the images of a batch, however many the set has.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from clipmerge.clip import device
from clipmerge.clip.data import locks, packs, real, views
from clipmerge.clip.data.packs import Side
from clipmerge.clip.data.threads import in_order

VIEW = 224  # pixels of a training view: the size of both papers' models (any other resizes it)


@dataclass(frozen=True, eq=False)
class Unread:
    """Images by reference: number k is image ``where[k, 1]`` of ``sides[where[k, 0]]``."""

    sides: tuple[Side, ...]
    where: Int64[Tensor, "n 2"]

    def __len__(self) -> int:
        return len(self.where)

    def __getitem__(self, index: Int64[Tensor, " k"] | Bool[Tensor, " n"] | slice | int) -> "Unread":
        """Some of the images; a number gives one image, still a sequence (`torch.stack` joins those)."""
        if isinstance(index, int):
            index = torch.tensor([index])
        return replace(self, where=self.where[index])

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None) -> "Unread":
        """``torch.cat`` and ``torch.stack`` of several; nothing else is known of images that were not read."""
        if function not in (torch.cat, torch.stack):
            return NotImplemented
        return joined(args[0])

    def split(self, size: int) -> Iterator["Unread"]:
        """Parts of at most `size` images."""
        return (replace(self, where=rows) for rows in self.where.split(size))

    def texts(self) -> list[list[str]]:
        """The captions of each image, in sets that have them."""
        return [self.sides[side].texts(torch.tensor([row]))[0] for side, row in self.where.tolist()]

    def read(self, threads: int = packs.THREADS) -> list[UInt8[Tensor, "h w 3"]]:
        """Decode all of them, of various sizes."""
        return list(in_order(self._image, self.where, threads, len(self)))

    def _image(self, place: Int64[Tensor, "2"]) -> UInt8[Tensor, "h w 3"]:
        side, row = place.tolist()
        return self.sides[side].take(torch.tensor([row]), 1)[0]

    def crop(self, scale_min: float, generator: torch.Generator) -> UInt8[Tensor, "n 3 224 224"]:
        """A random view of each (`views.anywhere`)."""
        images = self.read()
        return views.cut(images, views.anywhere(images, scale_min, generator), VIEW, device.here())

    def middle(self, size: int, threads: int = packs.THREADS) -> UInt8[Tensor, "n 3 size size"]:
        """CLIP's evaluation view of each."""
        return views.middle(self.read(threads), size, device.here())

    def middles(self, size: int, batch: int) -> Iterator[UInt8[Tensor, "_ 3 size size"]]:
        """The same, `batch` images at a time; threads decode the next ones while somebody looks at these."""
        return in_order(lambda part: part.middle(size, 1), self.split(batch), packs.THREADS, packs.THREADS)


def sides(name: str) -> dict[str, Unread | Int64[Tensor, " n"]]:
    """Images and labels of a real set's two sides, under the names of `datasets.Dataset`'s fields."""
    pack = locks.load(real.key(name))
    both = {"train": pack.train, "test": pack.test}
    images = {f"{part}_images": of(side) for part, side in both.items()}
    return images | {f"{part}_labels": side.labels for part, side in both.items()}


def of(side: Side) -> Unread:
    """All images of a side, in the pack's order."""
    rows = torch.arange(len(side))
    return Unread((side,), torch.stack([torch.zeros_like(rows), rows], 1))


def joined(parts: Sequence[Unread]) -> Unread:
    """The images of several, one after the other."""
    sides: list[Side] = []
    where = []
    for part in parts:
        numbers = torch.tensor([_number(sides, side) for side in part.sides], dtype=torch.int64)
        where.append(torch.stack([numbers[part.where[:, 0]], part.where[:, 1]], 1))
    return Unread(tuple(sides), torch.cat(where))


def _number(sides: list[Side], side: Side) -> int:
    """The place of a side in a list that it is entered into if it is not there."""
    for number, known in enumerate(sides):
        if known is side:
            return number
    sides.append(side)
    return len(sides) - 1
