"""A figure fit to be read has no flaws, and each way to spoil it is found, alone."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from clipmerge.book import figures
from clipmerge.book.flaws import flaws


@pytest.fixture
def panels():
    """Lines beside bars, named, with a legend."""
    plt.switch_backend("agg")
    with plt.rc_context(dict(figures.STYLE)):
        figure, axes = plt.subplots(1, 2)
        for method in ("condu-ft", "average"):
            axes[0].errorbar([1, 2], [3, 4], [0.1, 0.1], label=method, **figures.look(method))
        axes[0].set(xlabel="session", ylabel="accuracy (%)", title="lines")
        axes[1].barh(["one", "two"], [1, 2], label="bars")
        axes[1].set(xlabel="bytes", title="bars")
        figure.legend(*axes[0].get_legend_handles_labels())
    yield figure, *axes
    plt.close(figure)


def test_a_good_figure_has_none(panels):
    assert flaws(panels[0]) == []


def nothing(figure, left, right):
    right.clear()
    right.set(xlabel="bytes", ylabel="size")


def only_a_rule(figure, left, right):
    nothing(figure, left, right)
    right.axhline(1)


def no_numbers(figure, left, right):
    nothing(figure, left, right)
    right.errorbar([1, 2], [np.nan, np.nan], [np.nan, np.nan])


def no_label(figure, left, right):
    left.set_xlabel("")


def no_label_of_powers(figure, left, right):
    left.set(xscale="log", xlim=(1, 1e6), xlabel="")


def two_without_a_label(figure, left, right):
    left.set(xlabel="", ylabel="", title="accuracy (%)")


def small_print(figure, left, right):
    left.text(1, 3, "read me", fontsize=6.5)


def twins(figure, left, right):
    left.plot([1, 2], [5, 6], label="again", **figures.look("average"))


def twin_bars(figure, left, right):
    right.bar([0], [1], color="red", label="red")
    right.bar([0], [1], color="red", label="also red")


def twin_dots(figure, left, right):
    for label in ("some", "others"):
        left.scatter([1], [3], color="red", label=label)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (nothing, ["'size': draws nothing"]),
        (only_a_rule, ["'size': draws nothing"]),
        (no_numbers, ["'size': draws nothing"]),
        (no_label, ["'lines': numbers along x without a label"]),
        (no_label_of_powers, ["'lines': numbers along x without a label"]),
        (two_without_a_label, [f"'accuracy (%)': numbers along {axis} without a label" for axis in "xy"]),
        (small_print, ["'read me': 6.5 pt, at least 7 wanted"]),
        (twins, ["'lines': 'again' and 'average' look alike"]),
        (twin_bars, ["'bars': 'red' and 'also red' look alike"]),
        (twin_dots, ["'lines': 'some' and 'others' look alike"]),
    ],
)
def test_each_flaw_is_found(panels, spoil, told):
    spoil(*panels)
    assert flaws(panels[0]) == told


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: ax.plot([1], [1], "o"),
        lambda ax: ax.scatter([1], [1]),
        lambda ax: ax.fill_between([1, 2], [1, 1], [2, 2]),
        lambda ax: ax.text(0.5, 0.5, "not open"),
        lambda ax: ax.pcolormesh([[1, 2], [3, 4]]),
        lambda ax: ax.bar([1], [1]),
    ],
)
def test_little_is_more_than_nothing(panels, draw):
    nothing(*panels)
    draw(panels[2])
    assert flaws(panels[0]) == []


def test_what_needs_no_label(panels):
    """A row that shares its axis, words, a picture without ticks, a title with a unit, a panel that is switched off."""
    with plt.rc_context(dict(figures.STYLE)):
        figure, axes = plt.subplots(1, 5, sharey=False)
    axes[1].sharey(axes[0])
    for ax in axes[:2]:
        ax.plot([1, 2], [3, 4])
        ax.set(xlabel="session")
    axes[0].set_ylabel("accuracy (%)")
    axes[2].imshow([[0, 1]])
    axes[2].set(xticks=[], yticks=[])
    axes[3].bar(["one", "two"], [1, 2])
    axes[3].set_title("KA (%), replay")
    axes[4].axis("off")
    assert flaws(figure) == []
    plt.close(figure)
