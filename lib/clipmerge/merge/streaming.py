"""The merge room file to file: any number of models of any size, a few chunks in memory at a time.

Same results as in memory, bit for bit, whatever the number of threads. Inputs and outputs are safetensors; a unified
model is a folder (see `folder`). Everywhere: `memory_budget_mb` is checked against a prediction before work starts;
`threads` defaults to torch's number; `backend` is "pread" or "mmap"; `progress` is called with (done, total) elements.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from clipmerge.errors import BadInput
from clipmerge.merge import condu, ema, folder, techniques
from clipmerge.merge.lines import Lines
from clipmerge.merge.passes import Models, run
from clipmerge.merge.preflight import check, mergeable, room
from clipmerge.merge.registry import Number
from clipmerge.merge.safefile import header, size, writing
from clipmerge.merge.sources import Progress, check_buffers, chunks, deltas_of, differences, readers, reconstructions

File = str | Path


def unify(
    base: File,
    experts: Sequence[File],
    out: File,
    rescaler: str = "tensor_mean",
    names: Sequence[str] | None = None,
    memory_budget_mb: Number = 1024,
    threads: int | None = None,
    backend: str = "pread",
    progress: Progress = None,
) -> Path:
    """`condu.unify` of the experts' deltas, into the new folder `out`; tasks are named after files or by `names`."""
    theta, tuned = header(base), [header(expert) for expert in experts]
    if not tuned:
        raise BadInput("experts: expected at least one file, found none")
    names = condu.distinct([expert.path.stem for expert in tuned] if names is None else names, len(tuned))
    condu.known_rescaler(rescaler)
    layout, threads = deltas_of(theta), threads or torch.get_num_threads()
    check(theta, tuned, Path(out), folder.footprint(layout, len(tuned)), threads, 1, memory_budget_mb)
    with readers([theta, *tuned], backend, 1, progress) as opened:
        check_buffers(theta, tuned, opened)
        return folder.write(out, layout, differences(layout, *opened), names, rescaler, threads)


def extend(
    unified: File,
    expert: File,
    base: File,
    out: File,
    name: str | None = None,
    memory_budget_mb: Number = 1024,
    threads: int | None = None,
    backend: str = "pread",
    progress: Progress = None,
) -> Path:
    """`condu.extend`, one more session: from folder `unified` to the new folder `out`, in memory that does not grow."""
    source, theta, tuned = folder.stored(unified), header(base), header(expert)
    names = [*(task.name for task in source.tasks), name or tuned.path.stem]
    condu.distinct(names, len(names))
    layout, threads = deltas_of(theta), threads or torch.get_num_threads()
    if source.delta.layout != layout:
        raise BadInput(
            f"{source.delta.path}: expected the tensors of {theta.path} in fp32, found other names or shapes"
        )
    check(theta, [tuned], Path(out), folder.footprint(layout, len(names)), threads, 1, memory_budget_mb)
    with readers([theta, tuned], backend, 1, progress) as pair, reconstructions(source, backend) as old:
        check_buffers(theta, [tuned], pair)
        new = differences(layout, *pair)

        def rows(name: str, start: int, stop: int, out: np.ndarray) -> None:
            old(name, start, stop, out[:-1])
            new(name, start, stop, out[-1:])

        return folder.write(out, layout, rows, names, source.rescaler, threads)


def decouple(
    unified: File,
    task: int | str,
    out: File,
    base: File | None = None,
    backend: str = "pread",
    progress: Progress = None,
) -> Path:
    """`condu.decouple`: the delta δ̃ of one task, or with `base` the whole model θ⁰ + δ̃ in the base's dtypes."""
    source = folder.stored(unified)
    one = folder.Stored(source.path, source.delta, (condu.find(source.tasks, task),), source.rescaler)
    theta = header(base) if base else source.delta
    if base and deltas_of(theta) != source.delta.layout:
        raise BadInput(f"{theta.path}: expected the base of {source.path}, found other names or shapes")
    room(Path(out), sum(size(*entry) for entry in theta.layout.values()))
    with (
        readers([theta], backend, 1, progress) as (read,),
        reconstructions(one, backend) as rows,
        writing(out, theta.layout, (base and theta.meta) or None) as put,
    ):
        for name, start, stop in chunks(theta.layout, 2):
            value = read(name, start, stop)
            if name in source.delta.layout:
                delta = torch.empty(1, stop - start, dtype=source.delta.layout[name][1])
                rows(name, start, stop, delta.numpy())
                value = value + delta[0] if base else delta[0]
            put(name, start, value)
    return Path(out)


def merge(
    technique: str,
    base: File,
    experts: Sequence[File],
    out: File,
    weights: Sequence[Number] | None = None,
    seed: int = 0,
    fishers: Sequence[File] | None = None,
    lines: Lines | None = None,
    memory_budget_mb: Number = 1024,
    threads: int | None = None,
    backend: str = "pread",
    progress: Progress = None,
    **options: object,
) -> Path:
    """`techniques.merge` from files to the file `out`; integer buffers are the base's, tied tensors are merged once."""
    recipe = techniques.plan(technique, len(experts), weights, fishers, lines, options)
    theta, tuned, diagonals = header(base), [header(e) for e in experts], [header(f) for f in fishers or ()]
    tied = theta.meta.get("tied", {})
    layout = {name: entry for name, entry in mergeable(theta.layout).items() if name not in tied}
    techniques.check_fishers(layout, [f.layout for f in diagonals])
    threads, passes = threads or torch.get_num_threads(), 1 + 2 * bool(recipe.ranks) + bool(recipe.measure)
    write = sum(size(*entry) for entry in theta.layout.values())
    check(theta, tuned, Path(out), write, threads, passes, memory_budget_mb)
    files = [theta, *tuned, *diagonals]
    with readers(files, backend, passes, progress) as opened, writing(out, theta.layout, theta.meta or None) as put:
        first, middle, last = opened[0], opened[1 : 1 + len(tuned)], opened[1 + len(tuned) :]
        for span in check_buffers(theta, tuned, opened[: 1 + len(tuned)]):
            put(*span[:2], first(*span))
        also = {name: [alias for alias, first in tied.items() if first == name] for name in layout}

        def emit(name: str, start: int, merged: Tensor) -> None:
            for place in (name, *also[name]):
                put(place, start, merged)

        models = Models(layout, first, middle, [expert.label for expert in tuned], last)
        run(recipe, models, emit, techniques.shares(weights, len(tuned)), seed, lines, threads)
    return Path(out)


def fold(
    technique: str, base: File, experts: Sequence[File], out: File, weight: Number | None = None, **how: object
) -> Path:
    """`ema.fold` from the first expert on: r ← f(e, r). Every r is a file beside `out`, gone at the end."""
    if not experts:
        raise BadInput("experts: expected at least one file, found none")
    weights = ema.pair(technique, weight)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=Path(out).parent, prefix=".fold.", suffix=".partial") as place:
        running = experts[0]
        for step, expert in enumerate(experts[1:], start=2):
            following = out if step == len(experts) else Path(place, f"{step % 2}.safetensors")
            running = merge(technique, base, [expert, running], following, weights, **how)
        return merge("average", base, [running], out) if len(experts) == 1 else Path(out)
