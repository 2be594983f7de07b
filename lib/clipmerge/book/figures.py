"""Figures that look the same everywhere and change only when their content does.

One palette of eight hues that colour-blind readers can tell apart (Okabe and Ito, yellow replaced by grey), and for
every method one fixed look: hue, marker and line style, so that no difference rests on colour alone.
"""

import io
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import pandas as pd
from matplotlib.figure import Figure

from clipmerge.book import records
from clipmerge.book.flaws import flaws
from clipmerge.book.run_record import Run
from clipmerge.errors import BadInput

BLACK, ORANGE, SKY, GREEN, GREY, BLUE, RED, PINK = PALETTE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#7F7F7F", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")

WIDTH = 6.75  # inches, the text width of a two-column paper

STYLE = MappingProxyType(
    {
        "figure.figsize": (WIDTH, 3.2),
        "figure.dpi": 100,
        "figure.facecolor": "white",  # opaque, or dark mode swallows the labels
        "figure.constrained_layout.use": True,
        "savefig.dpi": 160,
        "savefig.facecolor": "white",
        "axes.facecolor": "white",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs everywhere
        "font.size": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "lines.markersize": 4.5,
        "lines.linewidth": 1.4,
        "image.cmap": "cividis",
        "svg.hashsalt": "clipmerge",
    }
)


def _looks() -> dict[str, dict[str, str]]:
    table = """
        zero-shot        grey   >  -- | experts          black  s  -  | continual-ft      red    v  -
        average          sky    D  -. | emr              pink   P  -. | condu-ft          blue   o  -
        condu-lora       blue   ^  -- | joint            black  *  :  | l2                orange s  :
        lwf              orange ^  :  | icarl            orange v  -. | lwf-vr            orange D  -
        wise-ft          green  <  -- | zscl             green  o  -. | zscl*             green  *  -.
        rail             pink   s  -. | rail-dual        pink   v  :  | moe-adapters      red    D  --
        slerp            sky    s  -- | task_arithmetic  green  ^  -  | magmax            orange o  :
        ties             red    P  -  | dare_ties        red    X  -- | breadcrumbs_ties  pink   ^  -.
        model_stock      blue   X  -. | tall_mask        black  D  :  | fisher            grey   <  :
        random           grey   X  -  | lines            sky    *  -  | best-in-time      blue   X  :
    """
    hues = {"black": BLACK, "orange": ORANGE, "sky": SKY, "green": GREEN}
    hues |= {"grey": GREY, "blue": BLUE, "red": RED, "pink": PINK}
    entries = [entry.split() for line in table.strip().splitlines() for entry in line.split("|")]
    return {method: {"color": hues[hue], "marker": m, "linestyle": line} for method, hue, m, line in entries}


LOOKS: Mapping[str, Mapping[str, str]] = MappingProxyType(_looks())


def look(method: str) -> dict[str, str]:
    """The fixed ``color, marker, linestyle`` of a method, to be passed on: ``ax.plot(x, y, **look("zscl"))``."""
    if method not in LOOKS:
        raise BadInput(f"method: expected one of {', '.join(LOOKS)}; found {method!r}")
    return dict(LOOKS[method])


def looks(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Looks for names that are not methods (tasks, widths, strategies), dealt out in the order given.

    Thirty-two in a row differ; nobody can read that many.
    """
    return {
        name: {"color": PALETTE[i % 8], "marker": MARKERS[i % 8], "linestyle": LINES[(i + i // 8) % 4]}
        for i, name in enumerate(names)
    }


def render(figure: Figure, kind: str) -> bytes:
    """The figure as bytes of a ``"pdf"`` or ``"png"`` file: equal figures give equal bytes (no dates, no versions)."""
    buffer = io.BytesIO()
    undated = {"pdf": {"CreationDate": None, "Creator": None, "Producer": None}, "png": {"Software": None}}
    figure.savefig(buffer, format=kind, metadata=undated[kind])
    return buffer.getvalue()


def save(figure: Figure, id: str, rows: pd.DataFrame, run: Run, note: str = "") -> None:
    """Write ``<id>.pdf .png .csv .json`` into ``run.out`` and list the figure in its ``INDEX.md``.

    `rows` are the numbers drawn, tidy (design: one number a row, columns `clipmerge.study.results.COLUMNS` and more);
    `note` is the caption. A file whose content would not change is left alone; see `records.save`. A figure that is not
    fit to be read (`flaws`) is a `BadInput`.
    """
    pictures = {f"{id}.{kind}": render(figure, kind) for kind in ("pdf", "png")}
    if found := flaws(figure):
        raise BadInput(f"{id}: expected a figure without flaws, found {'; '.join(found)}")
    records.save(id, rows, run, note, pictures)
