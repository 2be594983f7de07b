"""Rows of numbers as coloured cells: every cell says its number, and rows that do not fit are refused."""

import matplotlib.pyplot as plt
import pytest

from clipmerge.book import figures, strips
from clipmerge.errors import BadInput


@pytest.fixture(autouse=True)
def no_window():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def test_every_cell_says_its_number():
    figure, (cells, _) = strips.strips({"in": [1.0, -2.5], "out": [0.125, -0.001]}, "toy", given=1, beside=1)
    said = [text.get_text() for text in cells.texts]
    assert said == ["1", "−2.5", "0.12", "0"]
    assert [label.get_text() for label in cells.get_yticklabels()] == ["in", "out"]
    assert cells.lines[0].get_ydata() == [0.5, 0.5]  # between what goes in and what comes out
    assert figure.get_size_inches()[0] == figures.WIDTH


def test_dark_cells_have_light_numbers():
    figure, (cells,) = strips.strips({"a": [5.0, 0.5]}, "toy")
    assert [text.get_color() for text in cells.texts] == ["white", "black"]


def test_rows_of_unequal_length_are_refused():
    with pytest.raises(BadInput, match=r"equal length, found \[1, 2\]"):
        strips.strips({"a": [1.0], "b": [1.0, 2.0]}, "toy")
