"""A model seen under other names: every tensor a chain of parts of tensors elsewhere, read when it is asked for."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

import numpy as np

from clipmerge.clip.hub import keys
from clipmerge.errors import BadInput
from clipmerge.merge.layout import FLOATS, Layout, master
from clipmerge.merge.passes import Reader
from clipmerge.merge.sources import Source


@dataclass(frozen=True)
class Part:
    """Elements begin … begin + count of a flattened tensor of source number `of`, or all of it, transposed."""

    of: int
    name: str
    begin: int
    count: int
    transposed: tuple[int, int] | None = None  # its shape


@dataclass(frozen=True)
class View:
    """A model made of parts of others (`merge.sources.Source`); `architecture` as open_clip writes it, if known."""

    label: str
    name: str
    layout: Layout
    parts: Mapping[str, Sequence[Part]]
    sources: Sequence[Source]
    places: Sequence[Path]
    meta: Mapping[str, object] = field(default_factory=dict)

    @contextmanager
    def reading(self, backend: str = "pread") -> Iterator[Reader]:
        """A reader (tensor name, start, stop[, out]), as of a file."""
        with ExitStack() as stack:
            opened = [stack.enter_context(source.reading(backend)) for source in self.sources]
            turned: dict[str, np.ndarray] = {}

            def read(name: str, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
                if len(self.parts[name]) == 1 and not self.parts[name][0].transposed:
                    part = self.parts[name][0]
                    return opened[part.of](part.name, part.begin + start, part.begin + stop, out)
                kind = master(self.layout[name][1]) if self.layout[name][1] in FLOATS else self.layout[name][1]
                out = np.empty(stop - start, kind) if out is None else out
                first = 0
                for part in self.parts[name]:
                    low, high = max(start, first), min(stop, first + part.count)
                    place = out[max(low - start, 0) : max(high - start, 0)]
                    if low < high and part.transposed:
                        if name not in turned:  # a projection: small, and wanted in many pieces
                            whole = opened[part.of](part.name, 0, part.count)
                            turned[name] = whole.reshape(part.transposed).T.ravel()
                        place[:] = turned[name][low - first : high - first]
                    elif low < high:
                        opened[part.of](part.name, part.begin + low - first, part.begin + high - first, place)
                    first += part.count
                return out

            yield read


def plain(sources: Sequence[Source], label: str, name: str, place: Path, meta: Mapping | None = None) -> View:
    """The tensors of one or several files (shards) as they are."""
    parts, layout = {}, {}
    for k, source in enumerate(sources):
        for tensor, (shape, dtype) in source.layout.items():
            if tensor in layout:
                raise BadInput(f"{label}: {tensor} should be in one file, found it in two")
            layout[tensor] = (shape, dtype)
            parts[tensor] = [Part(k, tensor, 0, prod(shape))]
    return View(label, name, layout, parts, sources, [place], meta or sources[0].meta)


def as_open_clip(view: View) -> View:
    """The same model in open_clip's names, if it is in Hugging Face's; else as it is."""
    if not keys.is_huggingface(view.layout):
        return view
    theirs = {keys.prefixed(name): name for name in view.layout if keys.prefixed(name)}
    layout, parts = {}, {}
    for ours in keys.open_clip(theirs):
        wanted = keys.huggingface(ours) or [(ours, -1, False)]
        if missing := [name for name, *_ in wanted if name not in theirs]:
            raise BadInput(f"{view.label}: expected {missing[0]} beside its likes, found none")
        found = [(*view.layout[theirs[name]], theirs[name], turned) for name, _, turned in wanted]
        (shape, dtype, _, turned), kinds = found[0], {(shape, dtype) for shape, dtype, *_ in found}
        if len(kinds) > 1:
            raise BadInput(f"{view.label}: queries, keys and values of {ours} should be alike, found {sorted(kinds)}")
        whole = (len(found) * shape[0], *shape[1:]) if len(found) > 1 else shape[::-1] if turned else shape
        layout[ours] = (whole, dtype)
        parts[ours] = [Part(0, name, 0, prod(shape), shape if turned else None) for _, _, name, _ in found]
    return View(view.label, view.name, layout, parts, [view], view.places, view.meta)


def as_huggingface(view: View) -> View:
    """The same model in the names of Hugging Face's `CLIPModel`; raises BadInput where a name is not CLIP's."""
    layout, parts = {}, {}
    for ours, (shape, dtype) in view.layout.items():
        wanted = keys.huggingface(ours)
        if not wanted:
            raise BadInput(f"{view.label}: expected CLIP's tensors as open_clip names them, found {ours}")
        for name, third, turned in wanted:
            count = prod(shape) if third < 0 else prod(shape) // 3
            part_shape = (shape[0] // 3, *shape[1:]) if third >= 0 else shape[::-1] if turned else shape
            layout[name] = (part_shape, dtype)
            parts[name] = [Part(0, ours, max(third, 0) * count, count, shape if turned else None)]
    return View(view.label, view.name, layout, parts, [view], view.places, view.meta)


def completed(view: View, base: Source) -> tuple[View, list[str]]:
    """The model with what it lacks as a whole (a tower, a projection) lent by the base, and the names of that."""
    lent = []
    if not keys.is_clip(base.layout):
        return view, lent
    layout, parts = dict(view.layout), dict(view.parts)
    for group, holds in keys.GROUPS.items():
        names = [name for name in base.layout if holds(name)]
        if names and not any(name in view.layout for name in names):
            lent.append(group)
            layout |= {name: base.layout[name] for name in names}
            parts |= {name: [Part(len(view.sources), name, 0, prod(base.layout[name][0]))] for name in names}
    sources = [*view.sources, base] if lent else view.sources
    return replace(view, layout=layout, parts=parts, sources=sources), lent
