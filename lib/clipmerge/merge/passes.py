"""Passes over several models, wherever they live: rank the magnitudes, measure, merge.

Work is dealt out to threads in chunks of a tensor, a few blocks of every model; recipes see block after block.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from threading import Event
from typing import TypeVar

import numpy as np

from clipmerge.errors import BadInput
from clipmerge.merge import loops
from clipmerge.merge.layout import Layout, master
from clipmerge.merge.lines import Lines
from clipmerge.merge.pieces import chunk, spans
from clipmerge.merge.registry import Block, Number, Recipe, group

Result = TypeVar("Result")
Span = tuple[str, int, int]  # tensor name, start, stop
Reader = Callable[
    ..., np.ndarray
]  # (name, start, stop[, out]): that part of a flattened tensor, floats in fp32 or fp64
Cuts = Callable[[str], Sequence[Sequence[float]]]  # of a tensor: `Block.cuts`
Emit = Callable[[str, int, np.ndarray], None]  # tensor name, start, merged values in fp32 or fp64


@dataclass(frozen=True)
class Models:
    """The models to merge: shapes and dtypes of what is merged, readers of base and experts, names for errors."""

    layout: Layout
    base: Reader
    experts: Sequence[Reader]
    labels: Sequence[str]
    fishers: Sequence[Reader] = ()

    def count(self, name: str) -> int:
        """Elements of one tensor."""
        return prod(self.layout[name][0])

    def chunks(self, names: Iterable[str] | None = None) -> list[Span]:
        """All chunks of the given tensors (default: of all), in sorted order."""
        step = chunk(1 + len(self.experts) + len(self.fishers))
        return [(name, *span) for name in sorted(names or self.layout) for span in spans(self.count(name), step)]

    def blocks(
        self, todo: Iterable[Span], base: bool = True, cuts: Cuts = lambda name: (), **known: object
    ) -> Iterator[Block]:
        """Read chunk after chunk of every model and yield its blocks; NaN and Inf are refused by name."""
        places = [np.empty(0)] * 3
        for name, start, stop in todo:
            wide, parts = master(self.layout[name][1]), []
            for k, files in enumerate((self.experts, self.fishers, [self.base] * base)):
                rows, places[k] = fitted(places[k], (len(files), stop - start), wide)
                for row, read in zip(rows, files, strict=True):
                    read(name, start, stop, row)
                parts.append(rows)
            experts, fishers, origin = parts
            for rows, labels in ((origin, ["the base"]), (experts, self.labels), (fishers, ["fishers"] * len(fishers))):
                if (bad := loops.strange(rows)) >= 0:
                    raise BadInput(f"{labels[bad]}: {name} should hold finite numbers, found NaN or Inf")
            theta, diagonals = origin[0] if base else None, fishers if len(fishers) else None
            for low, high in spans(stop - start):
                yield Block(name, start + low, low, high, experts, theta, diagonals, cuts=cuts(name), **known)


def fitted(place: np.ndarray, shape: tuple[int, int], dtype: str | np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """An array of that shape, in memory kept from chunk to chunk, which is returned too and grows where it must.

    Fresh pages from the kernel would cost as much as the arithmetic.
    """
    if place.dtype != dtype or place.size < prod(shape):
        place = np.empty(prod(shape), dtype)
    return place[: prod(shape)].reshape(shape), place


def run(
    recipe: Recipe,
    models: Models,
    emit: Emit,
    weights: Sequence[Number],
    seed: int = 0,
    lines: Lines | None = None,
    threads: int = 1,
) -> None:
    """Carry out a recipe: at most three kinds of pass, `emit` receives every merged chunk once, in any order."""
    factors = lines.factors(models.layout) if lines else {}
    cuts = thresholds(recipe, models, threads) if recipe.ranks else {}

    def cut(name: str) -> Sequence[Sequence[float]]:
        return cuts[group(name, recipe.per)] if cuts else ()

    blocks = partial(models.blocks, base=recipe.base or bool(lines), cuts=cut, weights=tuple(weights), seed=seed)

    def measure(todo: Iterable[Span]) -> list[tuple[str, Sequence[float]]]:
        return [(block.name, recipe.measure(block)) for block in blocks(todo)]

    def merge(todo: Iterable[Span], known: object) -> None:
        place = np.empty(0)
        for block in blocks(todo, known=known):
            merged = recipe.merge(block)
            merged = lines.apply(merged, block, factors[block.name]) if lines else merged
            (out,), place = fitted(place, (1, block.rows.shape[1]), block.rows.dtype)
            out[block.low : block.high] = merged  # rounded here (and again where the output is in fp16 or bf16)
            if block.high == len(out):
                emit(block.name, block.start - block.low, out)

    known = recipe.conclude(totals(parallel(measure, models.chunks(), threads))) if recipe.measure else None
    parallel(partial(merge, known=known), models.chunks(), threads)


def parallel(work: Callable[[Iterable[Span]], Result], todo: Sequence[Span], threads: int) -> list[Result]:
    """Let every thread take the next chunk when it is free; the first failure (or Ctrl-C) stops them all."""
    if threads == 1:
        return [work(todo)]
    stop, pending = Event(), iter(todo)

    def share() -> Iterator[Span]:
        for span in pending:
            if stop.is_set():
                return
            yield span

    def guarded() -> Result:
        try:
            return work(share())
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(guarded) for _ in range(threads)]
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
        found[vector] = _order_statistics(models, models.chunks(names), ranks, threads)
    return found


def _order_statistics(models: Models, todo: Sequence[Span], ranks: Sequence[int], threads: int) -> list[list[float]]:
    # Two passes of counting instead of a sort: by the upper bits, then by the lower ones where the wanted ranks fall.
    def upper(part: Iterable[Span]) -> np.ndarray:
        bins = np.zeros((len(models.experts), 1 << 16), np.int64)
        for k, expert, base in _pairs(models, part):
            loops.count(expert, base, bins[k])
        return bins

    wanted = np.array([max(rank, 1) for rank in ranks])
    below = np.cumsum(sum(parallel(upper, todo, threads)), axis=1)
    high = np.stack([np.searchsorted(row, wanted) for row in below])  # [experts, ranks]
    rest = wanted - np.where(high > 0, np.take_along_axis(below, high - 1, axis=1), 0)

    def lower(part: Iterable[Span]) -> np.ndarray:
        bins = np.zeros((*high.shape, 1 << loops.LOW), np.int64)
        for k, expert, base in _pairs(models, part):
            loops.count_within(expert, base, high[k], bins[k])
        return bins

    low = (np.cumsum(sum(parallel(lower, todo, threads)), axis=2) < rest[:, :, None]).sum(axis=2)
    values = (high << loops.LOW | low).astype(np.int32).view(np.float32)
    return [[float(v) if rank else 0.0 for v, rank in zip(row, ranks, strict=True)] for row in values]


def _pairs(models: Models, part: Iterable[Span]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    place = np.empty(0)
    for name, start, stop in part:
        (base, expert), place = fitted(place, (2, stop - start), master(models.layout[name][1]))
        models.base(name, start, stop, base)
        for k, read in enumerate(models.experts):  # NaN and Inf are counted too: the passes to come refuse them by name
            read(name, start, stop, expert)
            yield k, expert, base
