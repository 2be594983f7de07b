"""What is wrong with a figure: an empty panel, numbers without a name, small print, two series that look alike.

`figures.save` refuses a figure with flaws, so the notebook that draws it fails, at the smoke profile too.
"""

import re
from collections.abc import Hashable, Iterator

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import Collection
from matplotlib.colors import to_hex
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

SMALLEST = 7  # points
UNIT = re.compile(r"\([^()]+\)")
NUMBER = re.compile(r"(?=.*\d)(\\mathdefault|\\times|[\W\d_])+")  # as ticks write them: 1,000 or 10 %, or powers in TeX


def flaws(figure: Figure) -> list[str]:
    """One line for each flaw, none for a figure that is fit to be read."""
    figure.draw_without_rendering()  # ticks, layout and extents are settled now
    panels = [ax for ax in figure.axes if ax.get_visible() and ax.axison]
    found = [f"{_name(ax)}: draws nothing" for ax in panels if not any(map(_drawn, _contents(ax)))]
    found += [flaw for ax in panels for flaw in _nameless(ax)]
    found += _small(figure)
    if figure.legends or any(ax.get_legend() for ax in figure.axes):
        found += [flaw for ax in figure.axes for flaw in _alike(ax)]
    return found


def _name(ax: Axes) -> str:
    return repr(ax.get_title() or ax.get_ylabel() or f"panel {ax.figure.axes.index(ax) + 1}")


def _contents(ax: Axes) -> list[Artist]:
    """What was drawn by number; a line or band across the whole panel (axhline, axvspan) is no content of its own."""
    placed = [*ax.collections, *ax.images, *ax.texts, *ax.tables]
    shapes = [*ax.lines, *ax.patches]
    return placed + [shape for shape in shapes if all(shape.get_transform().contains_branch_seperately(ax.transData))]


def _drawn(artist: Artist) -> bool:
    """Does it lie anywhere? What has no numbers, or none that is finite, has no finite extent."""
    marks = isinstance(artist, Collection)  # whose extent in pixels counts no marks
    box = artist.get_datalim(artist.axes.transData) if marks else artist.get_window_extent()
    return bool(np.isfinite(box.extents).all())


def _nameless(ax: Axes) -> Iterator[str]:
    """Axes with numbers on them and no name: no label of their own or of the row or column that shares them.

    Words on an axis explain themselves. A title with a unit, as "KA (%)", names one axis without a label.
    """
    bare = [axis for axis in (ax.xaxis, ax.yaxis) if _has_numbers(axis) and not _is_named(ax, axis)]
    if len(bare) == 1 and UNIT.search(ax.get_title()):
        return
    for axis in bare:
        yield f"{_name(ax)}: numbers along {axis.axis_name} without a label"


def _has_numbers(axis: Axis) -> bool:
    texts = [tick.label1.get_text() for tick in axis.get_major_ticks() if tick.label1.get_visible()]
    return axis.get_visible() and any(map(NUMBER.fullmatch, texts))


def _is_named(ax: Axes, axis: Axis) -> bool:
    if axis.get_label_text() or getattr(ax.figure, f"get_sup{axis.axis_name}label")():
        return True
    siblings = getattr(ax, f"get_shared_{axis.axis_name}_axes")().get_siblings(ax)
    return any(getattr(other, f"{axis.axis_name}axis").get_label_text() for other in siblings)


def _small(figure: Figure) -> Iterator[str]:
    """The smallest text, if it is below `SMALLEST`."""
    off = {text for ax in figure.axes if not ax.axison for axis in (ax.xaxis, ax.yaxis) for text in axis.findobj(Text)}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    smallest = min((text for text in texts if text not in off), key=Text.get_fontsize, default=None)
    if smallest and smallest.get_fontsize() < SMALLEST:
        yield f"{smallest.get_text()!r}: {smallest.get_fontsize():g} pt, at least {SMALLEST:g} wanted"


def _alike(ax: Axes) -> Iterator[str]:
    """Series of the legend that nothing tells apart."""
    first: dict[Hashable, str] = {}
    for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
        other = first.setdefault(_look(handle), label)
        if other != label:
            yield f"{_name(ax)}: {other!r} and {label!r} look alike"


def _look(handle: Artist | Container) -> Hashable:
    """What tells a series apart: mark, its filling and line style whatever the colour; without a mark, that too."""
    if isinstance(handle, Container):
        handle = next(artist for artist in handle if artist is not None)
    if isinstance(handle, Line2D):
        mark = None if handle.get_marker() in ("", "None", None) else (handle.get_marker(), handle.get_fillstyle())
        return mark or to_hex(handle.get_color()), handle.get_linestyle()
    if isinstance(handle, Patch):
        return to_hex(handle.get_facecolor(), keep_alpha=True), handle.get_hatch()
    return repr([(path.vertices, handle.get_facecolor()) for path in handle.get_paths()])
