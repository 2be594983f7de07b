"""The merge room file to file: any number of models of any size, a few chunks in memory at a time.

Same results as in memory, bit for bit, whatever the number of threads. Inputs are safetensors files, or a `Source` of
any other kind; outputs are safetensors files; a unified model is a folder (see `folder`). Everywhere:
`memory_budget_mb` is checked against a prediction before work starts; `threads` defaults to OMP_NUM_THREADS or the
cores; `backend` is "pread" or "mmap"; `progress` is called with (done, total) elements. Experts in fp16 or bf16 may
stand beside a base in fp32, or the other way round: deltas are fp32 in any case. No input is ever written to, and an
output that is there already is replaced, at the very end, only with `force`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from clipmerge.errors import BadInput
from clipmerge.merge import ema, folder, techniques
from clipmerge.merge.layout import FLOATS, Layout, mergeable, size
from clipmerge.merge.lines import Lines
from clipmerge.merge.passes import Models, run
from clipmerge.merge.preflight import check, guard, room, workers
from clipmerge.merge.registry import Number, among
from clipmerge.merge.safefile import writing
from clipmerge.merge.sources import (
    Progress,
    Source,
    check_buffers,
    chunks,
    deltas_of,
    differences,
    readers,
    reconstructions,
    source,
)
from clipmerge.merge.unifying import distinct, find, known_rescaler

File = str | Path
Model = File | Source


def unify(
    base: Model,
    experts: Sequence[Model],
    out: File,
    rescaler: str = "tensor_mean",
    names: Sequence[str] | None = None,
    notes: Mapping[str, object] | None = None,
    force: bool = False,
    memory_budget_mb: Number = 1024,
    threads: int | None = None,
    backend: str = "pread",
    progress: Progress = None,
) -> Path:
    """`condu.unify` of the experts' deltas, into the folder `out`; tasks are named after files or by `names`.

    `notes` are kept beside it.
    """
    theta, tuned = source(base), [source(expert) for expert in experts]
    if not tuned:
        raise BadInput("experts: expected at least one file, found none")
    names = distinct([expert.name for expert in tuned] if names is None else names, len(tuned))
    known_rescaler(rescaler)
    out = guard(out, [theta, *tuned], force, folder=True)
    layout, threads = deltas_of(theta), workers(threads)
    check(theta, tuned, out, folder.footprint(layout, len(tuned)), threads, 1, memory_budget_mb)
    with readers([theta, *tuned], backend, 1, progress) as opened:
        check_buffers(theta, tuned, opened)
        return folder.write(out, layout, differences(layout, *opened), names, rescaler, threads, force, notes)


def extend(
    unified: File,
    expert: Model,
    base: Model,
    out: File,
    name: str | None = None,
    notes: Mapping[str, object] | None = None,
    force: bool = False,
    memory_budget_mb: Number = 1024,
    threads: int | None = None,
    backend: str = "pread",
    progress: Progress = None,
) -> Path:
    """`condu.extend`, one more session: from folder `unified` to the folder `out`, in memory that does not grow."""
    stored, theta, tuned = folder.stored(unified), source(base), source(expert)
    names = [*(task.name for task in stored.tasks), name or tuned.name]
    distinct(names, len(names))
    out = guard(out, [stored, theta, tuned], force, folder=True)
    layout, threads = deltas_of(theta), workers(threads)
    if stored.delta.layout != layout:
        raise BadInput(
            f"{stored.delta.path}: expected the tensors of {theta.label} in fp32, found other names or shapes"
        )
    check(theta, [tuned], out, folder.footprint(layout, len(names)), threads, 1, memory_budget_mb)
    with readers([theta, tuned], backend, 1, progress) as pair, reconstructions(stored, backend) as old:
        check_buffers(theta, [tuned], pair)
        new = differences(layout, *pair)

        def rows(name: str, start: int, stop: int, out: np.ndarray) -> None:
            old(name, start, stop, out[:-1])
            new(name, start, stop, out[-1:])

        return folder.write(out, layout, rows, names, stored.rescaler, threads, force, notes)


def decouple(
    unified: File,
    task: int | str,
    out: File,
    base: Model | None = None,
    dtype: str | None = None,
    force: bool = False,
    backend: str = "pread",
    progress: Progress = None,
) -> Path:
    """`condu.decouple`: the delta δ̃ of one task, or with `base` the model θ⁰ + δ̃ in the base's dtypes or `dtype`."""
    stored = folder.stored(unified)
    one = folder.Stored(stored.path, stored.delta, (find(stored.tasks, task),), stored.rescaler)
    theta = stored.delta if base is None else source(base)
    if base is not None and deltas_of(theta) != stored.delta.layout:
        raise BadInput(f"{theta.label}: expected the base of {stored.path}, found other names or shapes")
    out, written = guard(out, [stored, theta], force), output(theta.layout, dtype)
    room(out, footprint(written))
    with (
        readers([theta], backend, 1, progress) as (read,),
        reconstructions(one, backend) as rows,
        writing(out, written, (base and theta.meta) or None, force) as put,
    ):
        for name, start, stop in chunks(theta.layout, 2):
            value = read(name, start, stop)
            if name in stored.delta.layout:
                delta = np.empty((1, stop - start), value.dtype)
                rows(name, start, stop, delta)
                value = value + delta[0] if base else delta[0]
            put(name, start, value)
    return out


def merge(
    technique: str,
    base: Model,
    experts: Sequence[Model],
    out: File,
    weights: Sequence[Number] | None = None,
    seed: int = 0,
    fishers: Sequence[Model] | None = None,
    lines: Lines | None = None,
    dtype: str | None = None,
    force: bool = False,
    memory_budget_mb: Number = 1024,
    threads: int | None = None,
    backend: str = "pread",
    progress: Progress = None,
    **options: object,
) -> Path:
    """`techniques.merge` from files to `out`, in the base's dtypes or all floats in `dtype`; buffers are the base's."""
    recipe = techniques.plan(technique, len(experts), weights, fishers, lines, options)
    theta, tuned, diagonals = source(base), [source(e) for e in experts], [source(f) for f in fishers or ()]
    out = guard(out, [theta, *tuned, *diagonals], force)
    tied = theta.meta.get("tied", {})
    layout = {name: entry for name, entry in mergeable(theta.layout).items() if name not in tied}
    techniques.check_fishers(layout, [f.layout for f in diagonals])
    threads, passes = workers(threads), 1 + 2 * bool(recipe.ranks) + bool(recipe.measure)
    written = output(theta.layout, dtype)
    check(theta, tuned, out, footprint(written), threads, passes, memory_budget_mb)
    files, n = [theta, *tuned, *diagonals], 1 + len(tuned)
    with readers(files, backend, passes, progress) as opened, writing(out, written, theta.meta or None, force) as put:
        for span in check_buffers(theta, tuned, opened[:n]):
            put(*span[:2], opened[0](*span))

        def emit(name: str, start: int, merged: np.ndarray) -> None:
            for place in (name, *(alias for alias, same in tied.items() if same == name)):
                put(place, start, merged)

        models = Models(layout, opened[0], opened[1:n], [expert.label for expert in tuned], opened[n:])
        run(recipe, models, emit, techniques.shares(weights, len(tuned)), seed, lines, threads)
    return out


def fold(
    technique: str,
    base: Model,
    experts: Sequence[Model],
    out: File,
    weight: Number | None = None,
    dtype: str | None = None,
    force: bool = False,
    **how: object,
) -> Path:
    """`ema.fold` from the first expert on: r ← f(e, r). Every r is a file beside `out`, gone at the end."""
    if not experts:
        raise BadInput("experts: expected at least one file, found none")
    weights, last = ema.pair(technique, weight), {"dtype": dtype, "force": force}
    out = guard(out, [source(model) for model in (base, *experts)], force)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=".fold.", suffix=".partial") as place:
        running = experts[0]
        for step, expert in enumerate(experts[1:], start=2):
            following = Path(place, f"{step}.safetensors")
            ends = (out, last) if step == len(experts) else (following, {})
            merge(technique, base, [expert, running], ends[0], weights, **how, **ends[1])
            if step > 2:
                running.unlink()
            running = following
        return merge("average", base, [running], out, **last) if len(experts) == 1 else out


def output(layout: Layout, dtype: str | None) -> Layout:
    """The layout that is written: the base's, or with all floats in `dtype`."""
    if dtype is None:
        return layout
    among("dtype", dtype, FLOATS)
    return {name: (shape, dtype if kept in FLOATS else kept) for name, (shape, kept) in layout.items()}


def footprint(layout: Layout) -> int:
    """Bytes of all tensors of a layout."""
    return sum(size(*entry) for entry in layout.values())
