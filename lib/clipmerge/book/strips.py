"""Vectors of a few numbers as rows of coloured cells, so that a merge can be read coordinate by coordinate."""

from collections.abc import Iterable, Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipmerge.book import figures
from clipmerge.errors import BadInput

DARK = 0.68  # of the limit: beyond it text is white


def strips(
    rows: Mapping[str, Iterable[float]], title: str, given: int = 0, limit: float = 5.0, beside: int = 0
) -> tuple[Figure, list[Axes]]:
    """A figure of named vectors float[n], one a row; its axes are the strips and `beside` empty ones to the right.

    The first `given` rows are what goes in, set apart by a line. Blue is negative, red positive, as far as ±`limit`;
    every cell says its number, so that nothing rests on the colour.
    """
    numbers = [[float(value) for value in row] for row in rows.values()]
    if len({len(row) for row in numbers}) != 1:
        raise BadInput(f"strips: expected rows of equal length, found {[len(row) for row in numbers]}")
    values = np.array(numbers)
    size = (figures.WIDTH, 0.27 * len(rows) + 0.75)
    figure, axes = plt.subplots(1, 1 + beside, figsize=size, width_ratios=[1.0] + [0.5] * beside, squeeze=False)
    cells = axes[0, 0]
    cells.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if abs(value) > DARK * limit else "black"
        cells.text(column, row, number(value), ha="center", va="center", color=colour, fontsize=8)
    if given:
        cells.axhline(given - 0.5, color="black", linewidth=1.5)
    count = values.shape[1]
    cells.set_xticks(range(count), [str(place + 1) for place in range(count)])
    cells.set_yticks(range(len(rows)), list(rows))
    cells.set(title=title, xlabel="weight")
    cells.tick_params(length=0)
    cells.spines[:].set_visible(True)
    return figure, list(axes[0])


def number(value: float) -> str:
    """Two digits after the point at most, no zeros at the end, a minus that is one; nothing becomes ``-0``."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text.replace("-", "−")
