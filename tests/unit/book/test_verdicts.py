"""Verdicts on cases worked out by hand: two standard errors decide, and three answers are all there is."""

import numpy as np
import pandas as pd
import pytest

from clipmerge.book.verdicts import verdict, word
from clipmerge.errors import BadInput

EDGE = [5.0, 1.0, 1.0, 1.0]  # mean 2, deviations 3 -1 -1 -1, sd √(12 / 3) = 2, standard error 2 / √4 = 1


@pytest.mark.parametrize(
    ("gap", "above", "said"),
    [
        ([1.0, 2.0, 3.0], 0.0, "holds"),  # mean 2, sd 1, error 0.577: 2 > 1.155
        ([-1.0, -2.0, -3.0], 0.0, "does not hold"),
        ([-1.0, 1.0, 3.0], 0.0, "not decidable"),  # mean 1, sd 2, error 1.155: 1 < 2.309
        ([1.0, 2.0, 3.0], 0.8, "holds"),  # 1.2 > 1.155
        ([1.0, 2.0, 3.0], 0.9, "not decidable"),  # 1.1 < 1.155
        ([1.0, 2.0, 3.0], 3.2, "does not hold"),
        (EDGE, 0.0, "not decidable"),  # exactly two standard errors is not more than two
        (EDGE, 4.0, "not decidable"),
        ([x + 0.125 for x in EDGE], 0.0, "holds"),
        (EDGE, 4.125, "does not hold"),
        ([0.0, 0.0, 0.0], 0.0, "not decidable"),  # on the threshold, without any spread
        ([0.5, 0.5], 0.0, "holds"),
        ([7.0], 0.0, "not decidable"),
        ([], 0.0, "not decidable"),
        ([7.0, np.nan], 0.0, "not decidable"),  # one seed, and one that was not run
    ],
)
def test_two_standard_errors_decide(gap, above, said):
    assert word(gap, above) == said
    assert word(np.array(gap), above) == said
    assert word(pd.Series(gap, dtype=float, index=range(10, 10 + len(gap))), above) == said


def test_a_line_of_the_table():
    gap = pd.Series([1.0, 2.0, 3.0], index=[0, 1, 2])
    line = verdict("more", gap)
    assert line == {"claim": "more", "difference": "2.0 ± 1.0 points", "seeds": 3, "verdict": "holds"}
    line = verdict("nearer", [0.25, 0.27], above=0.9, unit="", digits=2)
    assert line == {"claim": "nearer", "difference": "0.26 ± 0.01", "seeds": 2, "verdict": "does not hold"}
    line = verdict("once", [4.0, np.nan], unit="%")
    assert line == {"claim": "once", "difference": "4.0 %", "seeds": 1, "verdict": "not decidable"}
    assert verdict("never", [])["difference"] == "–"


@pytest.mark.parametrize(
    ("gap", "below", "said"),
    [
        ([0.2, 0.3, 0.4], 1.0, "holds"),
        ([1.2, 1.3, 1.4], 1.0, "does not hold"),
        ([0.0, 1.0, 2.0], 1.0, "not decidable"),
        (EDGE, 4.0, "not decidable"),
        (EDGE, 4.125, "holds"),
        ([-1.0, -1.1], 0.0, "holds"),
        ([0.3], 1.0, "not decidable"),
    ],
)
def test_a_claim_that_something_is_small(gap, below, said):
    assert verdict("little", gap, below=below)["verdict"] == said


def test_a_claim_and_its_opposite_never_both_hold():
    generator = np.random.default_rng(0)
    opposite = {"holds": "does not hold", "does not hold": "holds", "not decidable": "not decidable"}
    for _ in range(200):
        gap = generator.normal(generator.normal(0, 2), 1, size=generator.integers(2, 6))
        assert opposite[verdict("", gap, above=0.5)["verdict"]] == verdict("", gap, below=0.5)["verdict"]


def test_two_thresholds_are_refused():
    with pytest.raises(BadInput, match="'between': expected a threshold above or below, found both, 0.0 and 1.0"):
        verdict("between", [0.5], above=0.0, below=1.0)
