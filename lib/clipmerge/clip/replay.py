"""Batches of image–caption pairs, mixed of a task's own data, of what went before, and of pretraining data (TIME).

A caption is the image's own, where its set has captions, else one of the set's templates filled with the class name.
Images of the task and of the buffer are drawn uniformly over *images*, as in the paper, so a class with more images is
met more often.
"""

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Tensor

from clipmerge.clip import finetune, pretrain, prompts
from clipmerge.clip.data.unread import Unread
from clipmerge.clip.datasets import Dataset
from clipmerge.clip.pairs import Pairs
from clipmerge.errors import BadInput
from clipmerge.merge.registry import Number

Classes = Mapping[str, Sequence[int]]  # dataset name → class numbers


@dataclass(frozen=True)
class Source:
    """Train images of some (dataset, class) pairs: row k is image ``where[k, 1]`` of dataset ``where[k, 0]``."""

    datasets: tuple[Dataset, ...]
    where: Int64[Tensor, "n 2"]


def source(datasets: Mapping[str, Dataset], classes: Classes) -> Source:
    """The train images of `classes`."""
    rows, used = [], [name for name in datasets if name in classes]
    for number, name in enumerate(used):
        data = datasets[name]
        index = torch.isin(data.train_labels, torch.tensor(list(classes[name]))).nonzero().squeeze(1)
        rows.append(torch.stack([torch.full_like(index, number), index], 1))
    missing = sorted(classes.keys() - set(used))
    if missing or not sum(map(len, rows)):
        raise BadInput(f"replay: expected train images of every dataset named, found none of {', '.join(missing)}")
    return Source(tuple(datasets[name] for name in used), torch.cat(rows))


def shares(mixture: Sequence[Number], has_past: bool) -> tuple[float, float, float]:
    """Shares (pretraining, update, buffer) summing to one.

    In the first task there is no past: its share is split between the two others, where they have one themselves.
    """
    if len(mixture) != 3 or min(mixture) < 0 or not mixture[1] > 0:
        raise BadInput(f"mixture: expected three shares ≥ 0 (pretraining, update > 0, buffer), found {list(mixture)}")
    pretraining, update, buffer = (share / sum(mixture) for share in mixture)
    if has_past:
        return pretraining, update, buffer
    half = buffer / 2 if pretraining else 0.0
    return pretraining + half, update + buffer - half, 0.0


def counts(batch: int, mixture: Sequence[Number], has_past: bool) -> tuple[int, int, int]:
    """How many pairs of a batch are (pretraining, update, buffer); the update takes what rounding leaves over."""
    pretraining, _, buffer = (round(batch * share) for share in shares(mixture, has_past))
    if pretraining + buffer >= batch:
        raise BadInput(f"mixture: expected room for one update pair in a batch of {batch}, found {list(mixture)}")
    return pretraining, batch - pretraining - buffer, buffer


def draw(origin: Source, count: int, scale_min: float, generator: torch.Generator) -> Pairs:
    """`count` random pairs of a source, images cropped at random."""
    rows = origin.where[torch.randint(len(origin.where), (count,), generator=generator)].tolist()
    seen = [origin.datasets[number].train_images[row] for number, row in rows]
    dice = torch.rand(count, generator=generator).tolist()
    captions, names = [], []
    for (number, row), image, die in zip(rows, seen, dice, strict=True):
        data = origin.datasets[number]
        name = data.classes[data.train_labels[row]]
        own = image.texts()[0] if isinstance(image, Unread) else []
        own = own or [prompts.fill(template, [name])[0] for template in data.templates]
        captions.append(own[int(die * len(own))])
        names.append(name.lower())  # the tokenizer knows no capitals either
    return Pairs(finetune.crop(torch.stack(seen), scale_min, generator), captions, names)


def pretraining(count: int, generator: torch.Generator) -> Pairs:
    """`count` pairs as the base was pretrained on, of the web sides too."""
    drawn = _corpus().batch(count, generator)
    return replace(drawn, names=[name.lower() for name in drawn.names])


@functools.cache
def _corpus() -> pretrain.Corpus:
    return pretrain.corpus(pretrain.recipe())[0]


def mixed(
    sizes: tuple[int, int, int], update: Source, buffer: Source | None, scale_min: float, generator: torch.Generator
) -> Pairs:
    """One batch with `sizes` (pretraining, update, buffer) pairs; `buffer` may be None where its size is 0."""
    parts = [pretraining(sizes[0], generator)] if sizes[0] else []
    parts.append(draw(update, sizes[1], scale_min, generator))
    if sizes[2]:
        parts.append(draw(buffer, sizes[2], scale_min, generator))
    return functools.reduce(operator.add, parts)
