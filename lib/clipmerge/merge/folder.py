"""A unified model on disk: one dense delta, one file of packed masks per task, and `triggers.json`.

`unified.safetensors` holds u (fp32), `mask-000.safetensors` … one bit per parameter, `triggers.json` the tasks' names
and rescalers; `notes.json`, if it is there, where base and experts came from.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipmerge import files
from clipmerge.errors import BadInput
from clipmerge.merge.kernels import packed_size
from clipmerge.merge.layout import Layout, size
from clipmerge.merge.passes import Span, fitted, parallel, totals
from clipmerge.merge.pieces import chunk, spans
from clipmerge.merge.safefile import Header, header, new_folder, writing
from clipmerge.merge.unifying import ratio, unify_rows

if TYPE_CHECKING:
    from clipmerge.merge import condu

DENSE, TRIGGERS, NOTES = "unified.safetensors", "triggers.json", "notes.json"
ReadRows = Callable[[str, int, int, np.ndarray], None]  # (tensor, start, stop, out float[experts, n]): fills in deltas


@dataclass(frozen=True)
class Task:
    """One task of a stored unified model: its name, λ, and the file of its masks."""

    name: str
    rescaler: float
    masks: Header


@dataclass(frozen=True)
class Stored:
    """A unified model on disk, opened but not read."""

    path: Path
    delta: Header
    tasks: tuple[Task, ...]
    rescaler: str

    @property
    def places(self) -> tuple[Path, ...]:
        """The folder."""
        return (self.path,)


def masks(task: int) -> str:
    """File name of one task's masks."""
    return f"mask-{task:03}.safetensors"


def packed(layout: Layout) -> Layout:
    """Layout of the packed masks of tensors of this layout."""
    return {name: ((packed_size(prod(shape)),), "uint8") for name, (shape, _) in layout.items()}


def footprint(layout: Layout, tasks: int) -> int:
    """Bytes of a unified model with so many tasks, headers aside."""
    return sum(size(*e) for e in layout.values()) + tasks * sum(size(*e) for e in packed(layout).values())


def stored(path: str | Path) -> Stored:
    """Open a unified model's folder: its json and headers, checked against each other."""
    path = Path(path)
    try:
        record = json.loads((path / TRIGGERS).read_text("utf8"))
        listed = [(str(task["name"]), float(task["rescaler"])) for task in record["tasks"]]
        kind = str(record["rescaler"])
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"{path}: expected the folder of a unified model, found no {TRIGGERS} in it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path / TRIGGERS}: expected names and rescalers of tasks, found it damaged ({error!r})"
        ) from None
    delta = header(path / DENSE)
    tasks = tuple(Task(name, scale, header(path / masks(k))) for k, (name, scale) in enumerate(listed))
    for task in tasks:
        if task.masks.layout != packed(delta.layout):
            raise BadInput(f"{task.masks.path}: expected the masks of {delta.path}, found other names or sizes")
    return Stored(path, delta, tasks, kind)


def write(
    path: str | Path,
    layout: Layout,
    rows: ReadRows,
    names: Sequence[str],
    kind: str,
    threads: int = 1,
    force: bool = False,
    notes: Mapping[str, object] | None = None,
) -> Path:
    """Unify, chunk by chunk, the deltas that `rows` reads, into a new folder that is there whole or not at all.

    `notes`, kept in `notes.json`, say where the models came from.
    """
    sizes = {name: prod(shape) for name, (shape, _) in layout.items()}
    with new_folder(path, force) as partial:
        with ExitStack() as stack:
            put = stack.enter_context(writing(partial / DENSE, layout))
            marks = [stack.enter_context(writing(partial / masks(k), packed(layout))) for k in range(len(names))]

            def unify(todo: Iterable[Span]) -> list[tuple[str, list[float]]]:
                norms, place = [], np.empty(0)
                for name, start, stop in todo:
                    deltas, place = fitted(place, (len(names), stop - start), layout[name][1])
                    rows(name, start, stop, deltas)
                    unified, bits, found = unify_rows(name, deltas, names)
                    put(name, start, unified)
                    for mark, part in zip(marks, bits, strict=True):
                        mark(name, start // 8, part)
                    norms += [(name, block) for block in found]
                return norms

            todo = [(name, *span) for name in sorted(sizes) for span in spans(sizes[name], chunk(len(names)))]
            sums = totals(parallel(unify, todo, threads))
        norms = [{name: values[k] for name, values in sums.items()} for k in range(2 * len(names))]
        scales = [ratio(old, new, sizes, kind) for old, new in zip(norms, norms[len(names) :], strict=False)]
        _sign(partial, kind, dict(zip(names, scales, strict=True)))
        if notes:
            files.write_json(partial / NOTES, notes)
    return Path(path)


def load(path: str | Path) -> "condu.Unified":
    """Read a unified model into memory."""
    from clipmerge.merge import condu  # brings torch
    from clipmerge.merge.bitmask import PackedMask

    source = stored(path)
    shapes = {name: shape for name, (shape, _) in source.delta.layout.items()}
    triggers = []
    for task in source.tasks:
        bits = files.load_tensors(task.masks.path)
        triggers.append(condu.Trigger({n: PackedMask(bits[n], shapes[n]) for n in shapes}, task.rescaler, task.name))
    return condu.Unified(files.load_tensors(source.delta.path), tuple(triggers), source.rescaler)


def save(unified: "condu.Unified", path: str | Path) -> Path:
    """Write a unified model held in memory: the same bytes as unifying file to file."""
    from clipmerge.merge import deltas  # brings torch

    layout = deltas.layout(unified.delta)
    with new_folder(path) as partial:
        parts = [unified.delta, *({n: m.bits for n, m in t.mask.items()} for t in unified.triggers)]
        for k, part in enumerate(parts):
            with writing(partial / (masks(k - 1) if k else DENSE), packed(layout) if k else layout) as put:
                for name, tensor in part.items():
                    put(name, 0, tensor.reshape(-1).numpy())
        _sign(partial, unified.rescaler, {trigger.name: trigger.rescaler for trigger in unified.triggers})
    return Path(path)


def _sign(place: Path, kind: str, scales: Mapping[str, float]) -> None:
    """Write `triggers.json`: the tasks in order, each with its λ."""
    tasks = [{"name": name, "rescaler": scale} for name, scale in scales.items()]
    files.write_json(place / TRIGGERS, {"rescaler": kind, "tasks": tasks})
