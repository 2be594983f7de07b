"""The web side of pretraining: some openly licensed pictures of the tasks' own domains, captioned as the web captions.

CLIP was not trained on its benchmarks, but it had met digits, satellite photos and letters. Here a set whose licence
is open lends a tenth of its train images (`datasets.web`), under phrasings that are none of its templates, and
some captions name a wrong class. SolarCells (non-commercial) and closed vendors' emoji lend nothing.
"""

import random
from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from clipmerge import files
from clipmerge.clip import augment, datasets, manifests
from clipmerge.clip.manifests import Manifest
from clipmerge.clip.pairs import Pairs

HELD_OUT = 10  # the second of every ten pictures of a class is never trained on


@dataclass(frozen=True)
class Web:
    """Pictures of the web side: row i is of class ``label[i]`` of ``sets[origin[i]]``."""

    sets: tuple[Manifest, ...]
    images: UInt8[Tensor, "n 32 32 3"]
    origin: Int64[Tensor, " n"]
    label: Int64[Tensor, " n"]

    def at(self, rows: Int64[Tensor, " k"]) -> "Web":
        """The same sets with some of their pictures."""
        return Web(self.sets, self.images[rows], self.origin[rows], self.label[rows])


def names() -> tuple[str, ...]:
    """The datasets that lend pictures, in the protocol's order."""
    every = (name for group in datasets.GROUPS for name in datasets.names(group))
    return tuple(name for name in every if manifests.load(name).web is not None)


def load() -> Web:
    """All pictures of the web side."""
    sets = tuple(manifests.load(name) for name in names())
    images, labels = zip(*(datasets.web(each.name) for each in sets), strict=True)
    origin = [torch.full_like(part, number) for number, part in enumerate(labels)]
    return Web(sets, torch.cat(images), torch.cat(origin), torch.cat(labels))


def digest(web: Web) -> str:
    """sha256 over what the web side holds: pictures, classes, phrasings."""
    arrays = {"images": web.images, "origin": web.origin, "label": web.label}
    return files.digest([datasets.array_digest(arrays), [[each.name, each.classes, each.web] for each in web.sets]])


def split(web: Web) -> tuple[Web, Web]:
    """Pictures to train on, and held-out ones: the second of every ten of a class (none of a class with only one)."""
    classes = web.origin * 1000 + web.label
    held = torch.zeros(len(classes), dtype=torch.bool)
    for number in classes.unique():
        held[(classes == number).nonzero().squeeze(1)[1::HELD_OUT]] = True
    return web.at((~held).nonzero().squeeze(1)), web.at(held.nonzero().squeeze(1))


def caption(origin: Manifest, label: int, noise: float, dice: random.Random) -> tuple[str, str]:
    """One of a set's phrasings about a class, and the name in it; with probability `noise` that of another class."""
    classes = origin.classes
    if dice.random() < noise:
        label = (label + dice.randrange(1, len(classes))) % len(classes)
    return dice.choice(origin.web["captions"]).format(classes[label]), classes[label].lower()


def describe(web: Web, rows: list[int], noise: float, generator: torch.Generator) -> Pairs:
    """The pictures `rows`, jittered and captioned."""
    dice = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    sets = [web.sets[web.origin[row]] for row in rows]
    told = [caption(origin, int(web.label[row]), noise, dice) for origin, row in zip(sets, rows, strict=True)]
    mirrors = torch.tensor([origin.mirrors for origin in sets])
    return Pairs(augment.jitter(web.images[rows], mirrors, generator), [a for a, _ in told], [b for _, b in told])


def draw(web: Web, count: int, noise: float, generator: torch.Generator) -> Pairs:
    """`count` random pairs: every set is met equally often, and every picture of a set."""
    dice = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    of_set = [(web.origin == number).nonzero().squeeze(1).tolist() for number in range(len(web.sets))]
    rows = [dice.choice(of_set[dice.randrange(len(of_set))]) for _ in range(count)]
    return describe(web, rows, noise, generator)
