"""Streams of TIME: all (dataset, class) pairs of the adaptation sets, put in some order and cut into T equal chunks.

`random` shuffles pairs; `dataset` keeps datasets whole and shuffles them; `similarity` walks from class to class,
always to the nearest one left in the base's text space, so that neighbours in time are alike.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clipmerge import files
from clipmerge.clip import manifests
from clipmerge.errors import BadInput
from clipmerge.merge.registry import among
from clipmerge.study import experts
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.profiles import Profile
from clipmerge.study.time import steps

ORDERS = ("random", "dataset", "similarity")
Pair = tuple[str, int]  # dataset, number of the class


@dataclass(frozen=True)
class Stream:
    """The chunks in the order of learning; every pair is in exactly one of them."""

    name: str
    chunks: tuple[tuple[Pair, ...], ...]


def make(profile: Profile, order: str = "random", seed: int = 0, tasks: int | None = None) -> Stream:
    """A stream of `tasks` chunks (the profile's number by default) over ``profile.temporal.adaptation``."""
    names = profile.temporal.adaptation
    every = pairs(names)
    tasks = profile.temporal.tasks if tasks is None else tasks
    among("stream order", order, ORDERS)
    if not 1 <= tasks <= len(every):
        raise BadInput(f"stream: tasks: expected 1 to {len(every)} (the number of pairs), found {tasks}")
    dice = random.Random(seed)
    dice.shuffle(every)
    if order == "dataset":
        turn = {name: i for i, name in enumerate(dice.sample(names, len(names)))}
        every.sort(key=lambda pair: turn[pair[0]])  # stable: within a dataset the shuffle stays
    if order == "similarity":
        every = walk(every, texts(profile, every))
    cuts = np.linspace(0, len(every), tasks + 1).round().astype(int).tolist()
    return Stream(order, tuple(tuple(every[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)))


def pairs(datasets: Sequence[str]) -> list[Pair]:
    """All (dataset, class number) pairs."""
    return [(name, number) for name in datasets for number in range(len(manifests.load(name).classes))]


def by_dataset(chunk: Sequence[Pair]) -> dict[str, list[int]]:
    """Class numbers by dataset, both sorted."""
    ordered = sorted(chunk)
    return {name: [number for _, number in own] for name, own in groupby(ordered, key=itemgetter(0))}


def walk(every: Sequence[Pair], features: Float[Tensor, "n dim"]) -> list[Pair]:
    """Greedy nearest-neighbour walk from the first pair through all, by cosine of unit `features`."""
    left = torch.ones(len(every), dtype=torch.bool)
    here = 0
    path = [here]
    for _ in every[1:]:
        left[here] = False
        here = int((features @ features[here]).masked_fill(~left, -2.0).argmax())
        path.append(here)
    return [every[i] for i in path]


def texts(profile: Profile, every: Sequence[Pair]) -> Float[Tensor, "n dim"]:
    """Unit text features of the base, one per pair, from a cached step."""
    digests = {name: manifests.load(name).digest for name in profile.temporal.adaptation}
    config = {"model": profile.model, "compute": profile.compute.numerics, "digests": digests}
    label = f"time/{experts.label(profile.model)}/texts"
    step = Step(steps.read_texts, label, config, experts.base_inputs(profile.model))
    heads = files.load_tensors(store.get(step) / steps.TEXTS)
    return torch.stack([heads[name][number] for name, number in every])
