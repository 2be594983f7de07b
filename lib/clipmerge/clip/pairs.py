"""Image–caption pairs: what a step of pretraining, or of TIME's replay, is given."""

import random
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from clipmerge.clip import augment, pool


@dataclass(frozen=True)
class Pairs:
    """Images with captions; pairs of the same name are matches of one another."""

    images: UInt8[Tensor, "n 3 h w"]
    captions: list[str]
    names: list[str]

    def __add__(self, other: "Pairs") -> "Pairs":
        images = torch.cat([self.images, other.images])
        return Pairs(images, self.captions + other.captions, self.names + other.names)


def draw(
    pictures: pool.Pool, size: int, generator: torch.Generator
) -> tuple[Int64[Tensor, " n"], list[str], list[str], list[str]]:
    """Indices, kinds, names and captions of one batch; the pool's weights say how often each kind is drawn."""
    weights = pool.recipe()["weights"]
    shares = torch.tensor(list(weights.values()))
    kinds = [list(weights)[i] for i in torch.multinomial(shares, size, replacement=True, generator=generator)]
    dice = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    choices = {kind: pictures.of(kind) for kind in set(kinds)}
    index = torch.stack([choices[kind][dice.randrange(len(choices[kind]))] for kind in kinds])
    return index, kinds, [pictures.names[i][0] for i in index.tolist()], _captions(pictures, index, kinds, dice)


def _captions(pictures: pool.Pool, index: Int64[Tensor, " n"], kinds: list[str], dice: random.Random) -> list[str]:
    """One of its kind's phrasings and one of its names for every picture."""
    return [
        dice.choice(pool.recipe()["templates"][kind]).format(dice.choice(pictures.names[i]))
        for kind, i in zip(kinds, index.tolist(), strict=True)
    ]


def drawings(pictures: pool.Pool, size: int, generator: torch.Generator) -> Pairs:
    """`size` random drawings of the pool, drawn and captioned afresh."""
    index, kinds, names, captions = draw(pictures, size, generator)
    return Pairs(augment.images(pictures, index, kinds, generator), captions, names)


def each(pictures: pool.Pool, generator: torch.Generator) -> Pairs:
    """Every drawing of `pictures` once, drawn and captioned as its own kind."""
    dice = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    index = torch.arange(len(pictures.names))
    kinds = [pool.KINDS[number] for number in pictures.kind.tolist()]
    images = augment.images(pictures, index, kinds, generator)
    return Pairs(images, _captions(pictures, index, kinds, dice), [names[0] for names in pictures.names])


def split(pictures: pool.Pool, every: int) -> tuple[pool.Pool, pool.Pool]:
    """Drawings to train on, and held-out ones: the last of every `every` drawings of a kind."""
    held = torch.zeros(len(pictures.names), dtype=torch.bool)
    for kind in pool.KINDS:
        held[pictures.of(kind)[every - 1 :: every]] = True
    return _at(pictures, (~held).nonzero().squeeze(1)), _at(pictures, held.nonzero().squeeze(1))


def _at(pictures: pool.Pool, rows: Int64[Tensor, " k"]) -> pool.Pool:
    names = tuple(pictures.names[i] for i in rows.tolist())
    return replace(
        pictures, names=names, kind=pictures.kind[rows], alpha=pictures.alpha[rows], colour=pictures.colour[rows]
    )
