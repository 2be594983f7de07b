"""TIME's design space as a drawing: what can be chosen at each stage, with formulas, and the loop they share."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from clipmerge.book import figures

COLUMNS = {
    "INIT": (
        figures.SKY,
        [
            ("zs", r"$\theta^0$"),
            ("ft", r"$e_{t-1}$"),
            ("all", r"$f(e_1,\dots,e_{t-1})$"),
            ("ema", r"$r_{t-1}$"),
        ],
    ),
    "TRAIN": (
        figures.GREY,
        [
            ("", "a batch mixes"),
            ("update", r"$D_t$"),
            ("buffer", r"$D_1\cup\dots\cup D_{t-1}$"),
            ("pretraining", r"$D_0$"),
        ],
    ),
    "DEPLOY": (
        figures.ORANGE,
        [
            ("ft", r"$e_t$"),
            ("all", r"$f(e_1,\dots,e_t)$"),
            ("ema", r"$r_t = f(e_t,\ r_{t-1})$"),
        ],
    ),
}
LOOP = (
    "S, r = [θ⁰], θ⁰",
    "for t = 1 … T:",
    "    e = TRAIN(INIT(S, r), D_t + replay)",
    "    S.append(e)",
    "    r = f(e, r)",
    "    evaluate(DEPLOY(S, r))",
)


def time_design() -> Figure:
    """Three columns of choices over the loop; f is the merging technique, r its fold over the experts."""
    figure, axes = plt.subplots(figsize=(figures.WIDTH, 5.7))
    axes.set(xlim=(0, 3), ylim=(0, 5.7))
    axes.axis("off")
    for place, (title, (colour, entries)) in enumerate(COLUMNS.items()):
        _column(axes, place, title, colour, entries)
    for place in (0, 1):
        axes.add_patch(FancyArrowPatch((place + 0.93, 4.95), (place + 1.07, 4.95), arrowstyle="-|>", mutation_scale=18))
    bend = "arc3,rad=0.08"
    axes.add_patch(FancyArrowPatch((2.5, 5.15), (0.5, 5.15), arrowstyle="-|>", mutation_scale=18, connectionstyle=bend))
    axes.text(1.5, 5.52, "the next task", ha="center", va="center", size=10)
    legend = "f: the merging technique     r: its fold, an exponential moving average"
    axes.text(1.5, 2.02, legend, ha="center", size=11)
    _box(axes, (0.06, 0.06), 2.88, 1.68, "white", "black")
    for line, text in enumerate(LOOP):
        axes.text(0.2, 1.5 - 0.25 * line, text, family="DejaVu Sans Mono", size=11.5, va="center")
    return figure


def _column(axes: Axes, place: int, title: str, colour: str, entries: list[tuple[str, str]]) -> None:
    axes.text(place + 0.5, 4.95, title, ha="center", va="center", size=15, weight="bold")
    for line, (name, formula) in enumerate(entries):
        bottom = 4.08 - 0.6 * line
        _box(axes, (place + 0.06, bottom), 0.88, 0.5, colour + "30", colour)
        if name:
            axes.text(place + 0.11, bottom + 0.25, name, va="center", size=11, weight="bold")
            axes.text(place + 0.9, bottom + 0.25, formula, va="center", ha="right", size=11)
        else:
            axes.text(place + 0.5, bottom + 0.25, formula, va="center", ha="center", size=11)


def _box(axes: Axes, corner: tuple[float, float], width: float, height: float, face: str, edge: str) -> None:
    style = "round,pad=0.0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, facecolor=face, edgecolor=edge, linewidth=1.5))
