"""How a verdict is written down; how it is reached, is tested with `clipmerge.study.claims.evidence`."""

import numpy as np
import pandas as pd
import pytest

from clipmerge.book.verdicts import verdict
from clipmerge.errors import BadInput


def test_a_line_of_the_table():
    line = verdict("more", pd.Series([2.0, 3.0, 4.0], index=[0, 1, 2]))
    assert line == {
        "claim": "more",
        "difference": "3.0 ± 1.0 points",
        "95 %": "[0.5, 5.5]",
        "seeds": 3,
        "verdict": "holds",
    }
    line = verdict("nearer", [0.25, 0.27], above=0.9, unit="", digits=2)
    assert list(line.values()) == ["nearer", "0.26 ± 0.01", "[0.13, 0.39]", 2, "does not hold"]
    line = verdict("once", [4.0, np.nan], unit="%")
    assert list(line.values()) == ["once", "4.0 %", "–", 1, "not decidable"]
    line = verdict("the same for all seeds", [4.0, 4.0, 4.0])
    assert list(line.values()) == ["the same for all seeds", "4.0 points", "–", 1, "not decidable"]
    assert list(verdict("never", []).values()) == ["never", "–", "–", 0, "not decidable"]


def test_a_claim_with_two_thresholds_is_refused_by_name():
    with pytest.raises(BadInput, match="'between': expected one of above, below and within, found .*0.0.*1.0"):
        verdict("between", [0.5], above=0.0, below=1.0)
