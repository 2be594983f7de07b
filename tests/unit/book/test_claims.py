"""Claims in words: aims and floors are met by means, and what has no number meets nothing."""

from dataclasses import replace

import pytest

from clipmerge.book import claims
from clipmerge.study.claims import manifest
from clipmerge.study.claims.judge import Judged

SIDE = manifest.Side("toy", {})
CLAIM = manifest.Claim("kept", "aim", "this project", "Much is kept.", "a toy", SIDE, None, "greater", 97.0, "%")


def pair(effect, **more):
    """An aim above 97 and a floor above 93, of which `effect` was measured."""
    aim = Judged(CLAIM, "laptop", "not decidable", effect=effect, **more)
    return [aim, replace(aim, claim=replace(CLAIM, part="floor", margin=93.0))]


@pytest.mark.parametrize(
    ("effect", "aim", "floor"),
    [(98.0, "reached", "reached"), (95.0, "missed", "reached"), (93.0, "missed", "missed"), (float("nan"), "–", "–")],
)
def test_a_mean_reaches_what_it_lies_beyond(effect, aim, floor):
    table = claims.aims(pair(effect, low=92.0, high=99.0, seeds=5, n=1234))
    (row,) = table.to_dict("records")
    assert (row["aim"], row["floor"]) == (f"> 97: {aim}", f"> 93: {floor}")
    assert (row["seeds"], row["images"], row["95 %"]) == (5, "1,234", "[92.0, 99.0]")


def test_the_readme_names_what_is_below_its_floor():
    reached, below = pair(98.0), pair(90.0)
    assert claims.readme([], reached).endswith("1 reach their aim; none is below its floor.")
    assert claims.readme([], below).endswith("0 reach their aim; below their floor: kept (90.0 %).")
