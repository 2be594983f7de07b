"""Passes over all blocks of several models, wherever they live: rank the magnitudes, measure, merge."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from threading import Event
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from clipmerge.errors import BadInput
from clipmerge.merge.deltas import master
from clipmerge.merge.kernels import count, count_within, spans
from clipmerge.merge.lines import Lines
from clipmerge.merge.registry import Block, Number, Recipe, group

Result = TypeVar("Result")
Span = tuple[str, int, int]  # tensor name, start, stop
Reader = Callable[[str, int, int], Tensor]  # that part of one flattened tensor, in the model's dtype
Emit = Callable[[str, int, Tensor], None]  # tensor name, start, merged values in fp64
LOW = 15  # fp32 magnitudes have 31 bits; they are ranked by the upper 16 first, then by these


@dataclass(frozen=True)
class Models:
    """The models to merge: shapes and dtypes of what is merged, readers of base and experts, names for errors."""

    layout: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
    base: Reader
    experts: Sequence[Reader]
    labels: Sequence[str]
    fishers: Sequence[Reader] = ()

    def count(self, name: str) -> int:
        """Elements of one tensor."""
        return prod(self.layout[name][0])

    def spans(self, names: Iterable[str] | None = None) -> list[Span]:
        """All blocks of the given tensors (default: of all), in sorted order."""
        return [(name, *span) for name in sorted(names or self.layout) for span in spans(self.count(name))]

    def block(self, name: str, start: int, stop: int, **known: object) -> Block:
        """Read one block of every model, in fp64; NaN and Inf are refused by name."""
        experts = tuple(read(name, start, stop).double() for read in self.experts)
        for label, expert in zip(self.labels, experts, strict=True):
            if not math.isfinite(expert.sum()):
                raise BadInput(f"{label}: {name} should hold finite numbers, found NaN or Inf")
        base = self.base(name, start, stop).double()
        fishers = tuple(read(name, start, stop).double() for read in self.fishers)
        return Block(name, start, base, experts, fishers, dtype=master(self.layout[name][1]), **known)


def run(
    recipe: Recipe,
    models: Models,
    emit: Emit,
    weights: Sequence[Number],
    seed: int = 0,
    lines: Lines | None = None,
    threads: int = 1,
) -> None:
    """Carry out a recipe: at most three kinds of pass, `emit` receives every merged block once, in any order."""
    factors = lines.factors(models.layout) if lines else {}
    cuts = thresholds(recipe, models, threads) if recipe.ranks else {}

    def blocks(todo: Iterable[Span], **known: object) -> Iterator[Block]:
        for span in todo:
            cut = cuts.get(group(span[0], recipe.per), ())
            yield models.block(*span, weights=tuple(weights), seed=seed, cuts=cut, **known)

    def measure(todo: Iterable[Span]) -> list[tuple[str, Sequence[float]]]:
        return [(block.name, recipe.measure(block)) for block in blocks(todo)]

    def merge(todo: Iterable[Span], known: object) -> None:
        for block in blocks(todo, known=known):
            merged = recipe.merge(block)
            emit(block.name, block.start, lines.apply(merged, block, factors[block.name]) if lines else merged)

    known = recipe.conclude(totals(parallel(measure, models.spans(), threads))) if recipe.measure else None
    parallel(partial(merge, known=known), models.spans(), threads)


def parallel(work: Callable[[Iterable[Span]], Result], todo: Sequence[Span], threads: int) -> list[Result]:
    """Let every thread do its share of the blocks; the first failure (or Ctrl-C) stops them all."""
    if threads == 1:
        return [work(todo)]
    stop = Event()

    def share(worker: int) -> Iterator[Span]:
        for span in todo[worker::threads]:
            if stop.is_set():
                return
            yield span

    def guarded(worker: int) -> Result:
        try:
            return work(share(worker))
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(guarded, worker) for worker in range(threads)]
        try:
            return [future.result() for future in futures]
        finally:
            stop.set()


def totals(parts: Iterable[Iterable[tuple[str, Sequence[float]]]]) -> dict[str, list[float]]:
    """Add up the numbers measured on each tensor's blocks: correctly rounded, hence in any order."""
    found: dict[str, list[Sequence[float]]] = {}
    for name, numbers in (entry for part in parts for entry in part):
        found.setdefault(name, []).append(numbers)
    return {name: [math.fsum(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}


def thresholds(recipe: Recipe, models: Models, threads: int) -> dict[str, list[list[float]]]:
    """For every flat vector and expert, the exact magnitudes at the recipe's ranks (0 at rank 0)."""
    groups: dict[str, list[str]] = {}
    for name in models.layout:
        groups.setdefault(group(name, recipe.per), []).append(name)
    found = {}
    for vector, names in groups.items():
        ranks = recipe.ranks(sum(map(models.count, names)))
        found[vector] = _order_statistics(models, models.spans(names), ranks, threads)
    return found


def _order_statistics(models: Models, todo: Sequence[Span], ranks: Sequence[int], threads: int) -> list[list[float]]:
    # Two passes of counting instead of a sort: non-negative floats are ordered like the integers their bits spell.
    def upper(part: Iterable[Span]) -> np.ndarray:
        bins = np.zeros((len(models.experts), 1 << 16), np.int64)
        for k, keys in _keys(models, part):
            count(keys, LOW, bins[k])
        return bins

    wanted = np.array([max(rank, 1) for rank in ranks])
    below = np.cumsum(sum(parallel(upper, todo, threads)), axis=1)
    high = np.stack([np.searchsorted(row, wanted) for row in below])  # [experts, ranks]
    rest = wanted - np.where(high > 0, np.take_along_axis(below, high - 1, axis=1), 0)

    def lower(part: Iterable[Span]) -> np.ndarray:
        bins = np.zeros((*high.shape, 1 << LOW), np.int64)
        for k, keys in _keys(models, part):
            for r, bin in enumerate(high[k]):
                count_within(keys, LOW, bin, bins[k, r])
        return bins

    low = (np.cumsum(sum(parallel(lower, todo, threads)), axis=2) < rest[:, :, None]).sum(axis=2)
    values = (high << LOW | low).astype(np.int32).view(np.float32)
    return [[float(v) if rank else 0.0 for v, rank in zip(row, ranks, strict=True)] for row in values]


def _keys(models: Models, part: Iterable[Span]) -> Iterator[tuple[int, np.ndarray]]:
    for name, start, stop in part:
        wide = master(models.layout[name][1])
        base = models.base(name, start, stop).to(wide)
        for k, read in enumerate(models.experts):  # NaN and Inf are counted too: the passes to come refuse them by name
            yield k, (read(name, start, stop).to(wide) - base).abs_().float().numpy().view(np.int32)
