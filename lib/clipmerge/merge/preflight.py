"""Before any work: do the files fit together, is there room on the disk and in memory? Only headers are read."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from clipmerge.errors import BadInput
from clipmerge.merge.deltas import check_layout
from clipmerge.merge.kernels import BLOCK, chunk
from clipmerge.merge.registry import Number
from clipmerge.merge.safefile import Header, Layout, size

MB = 1 << 20
COPIES = 8  # fp64 blocks that a recipe holds per model, intermediate results included
BYTES = 20  # per element of a chunk and model: what was read, its delta or fp64 copy, its mask


@dataclass(frozen=True)
class Plan:
    """What a run will read, write and need: bytes, and the memory (MB) it adds at most to what the process holds."""

    models: int
    parameters: int
    read_bytes: int
    write_bytes: int
    peak_mb: float


def mergeable(layout: Layout) -> Layout:
    """The floating-point part of a layout, sorted by name."""
    return {name: layout[name] for name in sorted(layout) if layout[name][1].is_floating_point}


def check(
    base: Header,
    others: Sequence[Header],
    out: Path,
    write_bytes: int,
    threads: int,
    passes: int,
    memory_budget_mb: Number,
) -> Plan:
    """Refuse files that do not fit the base, a disk too full, a budget too small; else say what is ahead."""
    if threads < 1:
        raise BadInput(f"threads: expected a number from 1, found {threads}")
    for other in others:
        check_layout(base.layout, other.layout, other.label)
    models = 1 + len(others)
    read = sum(size(*entry) for entry in base.layout.values()) * models * passes
    working = threads * models * (BLOCK * torch.float64.itemsize * COPIES + chunk(models) * BYTES)
    counters = (passes > 1) * 3 * threads * models * (1 << 16) * torch.int64.itemsize
    parameters = sum(prod(shape) for shape, _ in mergeable(base.layout).values())
    plan = Plan(models, parameters, read, write_bytes, (working + counters) / MB)
    if plan.peak_mb > memory_budget_mb:
        raise BadInput(
            f"memory_budget_mb: expected at least {plan.peak_mb:.0f} for this run, found {memory_budget_mb:g}"
        )
    room(out, write_bytes)
    return plan


def room(out: Path, wanted: int) -> None:
    """Refuse to start what the disk cannot hold."""
    place = next(folder for folder in [out.absolute(), *out.absolute().parents] if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < wanted:
        raise BadInput(f"{out}: expected {wanted / MB:.0f} MB of free disk, found {free / MB:.0f}")
