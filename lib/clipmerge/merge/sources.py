"""What streaming reads: models, differences of models, tasks rebuilt from a unified model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from math import prod
from pathlib import Path
from threading import Lock
from typing import Protocol, runtime_checkable

import numpy as np

from clipmerge.errors import BadInput
from clipmerge.merge.folder import ReadRows, Stored
from clipmerge.merge.kernels import packed_size
from clipmerge.merge.layout import Layout, master, mergeable
from clipmerge.merge.passes import Reader, Span
from clipmerge.merge.pieces import chunk, spans
from clipmerge.merge.safefile import header
from clipmerge.merge.unifying import reconstruct

Progress = Callable[[int, int], None] | None  # called with (elements done, elements in all)


@runtime_checkable
class Source(Protocol):
    """A model that is read in pieces: a safetensors file (`safefile.Header`), or what `clip.hub` makes of others."""

    layout: Layout
    meta: Mapping[str, object]

    @property
    def label(self) -> str:
        """What errors call it."""

    @property
    def name(self) -> str:
        """What a task is called after it."""

    @property
    def places(self) -> Sequence[Path]:
        """The files or folders it is read from, which nothing may overwrite."""

    def reading(self, backend: str) -> AbstractContextManager[Reader]:
        """A reader, while the files are open."""


def source(model: str | Path | Source) -> Source:
    """A model given by a path, opened but not read; or as it is."""
    return header(model) if isinstance(model, str | Path) else model


def chunks(layout: Layout, models: int) -> list[Span]:
    """All chunks of all tensors, in sorted order, of a size for so many models."""
    return [(name, *span) for name in sorted(layout) for span in spans(prod(layout[name][0]), chunk(models))]


def deltas_of(base: Source) -> Layout:
    """Layout of deltas from this base: its floating-point tensors, in fp32 (fp64 if the base is)."""
    return {name: (shape, master(dtype)) for name, (shape, dtype) in mergeable(base.layout).items()}


@contextmanager
def readers(
    files: Sequence[Source], backend: str, passes: int = 1, progress: Progress = None
) -> Iterator[list[Reader]]:
    """Open files for reading; progress is counted on the last, which every pass reads once."""
    with ExitStack() as stack:
        opened = [stack.enter_context(file.reading(backend)) for file in files]
        if progress:
            total = passes * sum(prod(shape) for shape, _ in mergeable(files[0].layout).values())
            opened[-1] = _counted(opened[-1], total, progress)
        yield opened


def _counted(read: Reader, total: int, progress: Callable[[int, int], None]) -> Reader:
    done, lock = 0, Lock()

    def counted(name: str, start: int, stop: int, *out: np.ndarray) -> np.ndarray:
        nonlocal done
        with lock:
            done = min(total, done + stop - start)
            progress(done, total)
        return read(name, start, stop, *out)

    return counted


def check_buffers(base: Source, experts: Sequence[Source], opened: Sequence[Reader]) -> list[Span]:
    """Chunks of the tensors that are not merged, after checking that they are the same in all models."""
    kept = chunks({name: entry for name, entry in base.layout.items() if name not in mergeable(base.layout)}, 2)
    for span in kept:
        expected = opened[0](*span)
        for expert, read in zip(experts, opened[1:], strict=True):
            if not np.array_equal(read(*span), expected):
                raise BadInput(
                    f"{expert.label}: {span[0]} ({expected.dtype}) is not merged and should equal the base's"
                )
    return kept


def differences(layout: Layout, base: Reader, *experts: Reader) -> ReadRows:
    """Read δ = θ − θ⁰ of every expert; the base is read once."""

    def rows(name: str, start: int, stop: int, out: np.ndarray) -> None:
        origin = base(name, start, stop)
        for row, read in zip(out, experts, strict=True):
            read(name, start, stop, row)
        np.subtract(out, origin, out=out)

    return rows


@contextmanager
def reconstructions(stored: Stored, backend: str, progress: Progress = None) -> Iterator[ReadRows]:
    """Read δ̃ = λ M ⊙ u of every stored task, rebuilt chunk by chunk."""
    masks = [task.masks for task in stored.tasks]
    with readers([stored.delta], backend, 1, progress) as (dense,), readers(masks, backend) as bits:

        def rows(name: str, start: int, stop: int, out: np.ndarray) -> None:
            unified = dense(name, start, stop)
            for row, read, task in zip(out, bits, stored.tasks, strict=True):
                reconstruct(unified, read(name, start // 8, packed_size(stop)), task.rescaler, row)

        yield rows
