"""Many small tasks out of few datasets: the classes of each dataset, shuffled and cut into pieces.

cut({"digits": 10, "flags": 250}, count=6, smallest=4, seed=0)   # digits-1 … flags-4, in the order of learning
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from clipmerge.clip.datasets import Dataset
from clipmerge.errors import BadInput


@dataclass(frozen=True)
class Small:
    """One small task: some classes of one dataset, by position in its list of classes."""

    name: str
    dataset: str
    classes: tuple[int, ...]


def shares(sizes: Mapping[str, int], count: int, smallest: int) -> dict[str, int]:
    """How many pieces each dataset is cut into: `count` in all, dealt out in turn so that every domain is met often.

    `sizes` are numbers of classes. A dataset stops when one more piece would leave fewer than `smallest` classes in
    some piece; a dataset smaller than that is one piece. Raises BadInput if `count` pieces cannot be had.
    """
    pieces = dict.fromkeys(sizes, 1)
    while sum(pieces.values()) < count:
        can = [name for name in sizes if sizes[name] // (pieces[name] + 1) >= smallest]
        if not can:
            most = sum(pieces.values())
            raise BadInput(f"many.count: expected at most {most} tasks of {smallest} classes or more, found {count}")
        pieces[min(can, key=pieces.__getitem__)] += 1  # of equals, the first listed
    if sum(pieces.values()) > count:
        raise BadInput(f"many.count: expected at least {len(pieces)}, one task a dataset; found {count}")
    return pieces


def cut(sizes: Mapping[str, int], count: int, smallest: int, seed: int) -> tuple[Small, ...]:
    """Cut all datasets into `count` small tasks and shuffle them. Every class is in exactly one of them.

    `seed` draws which classes go together and the order of learning; the same seed gives the same tasks.
    """
    generator, tasks = torch.Generator().manual_seed(seed), []
    for dataset, pieces in shares(sizes, count, smallest).items():
        drawn = torch.randperm(sizes[dataset], generator=generator).tensor_split(pieces)
        width = len(str(pieces))
        tasks += [
            Small(f"{dataset}-{i:0{width}d}", dataset, tuple(sorted(part.tolist())))
            for i, part in enumerate(drawn, start=1)
        ]
    return tuple(tasks[i] for i in torch.randperm(len(tasks), generator=generator).tolist())


def narrow(dataset: Dataset, name: str, classes: Sequence[int]) -> Dataset:
    """The part of a dataset that shows the given classes, relabelled 0, 1, … in their order."""
    label = torch.full((len(dataset.classes),), -1)
    label[torch.tensor(classes)] = torch.arange(len(classes))
    sides = {}
    for side in ("train", "test"):
        new = label[getattr(dataset, f"{side}_labels")]
        sides[f"{side}_images"] = getattr(dataset, f"{side}_images")[new >= 0]
        sides[f"{side}_labels"] = new[new >= 0]
    return replace(dataset, name=name, classes=tuple(dataset.classes[i] for i in classes), **sides)
