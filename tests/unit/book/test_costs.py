"""What a run from an empty cache takes, told from records of runs that found a warm one."""

import pytest

from clipmerge.book import costs

PLACE = {"profile": "laptop", "machine": "2 cores, cpu", "workers": 2, "peak_mb": 900, "notebook_mb": 700}
SHARED, OWN = {"seconds": 240.0, "peak_mb": 500.0}, {"seconds": 120.0, "peak_mb": 50.0}
RECORDS = {
    "10_a": PLACE | {"own_seconds": 60.0, "steps": {"expert": SHARED}},
    "11_b": PLACE | {"own_seconds": 30.0, "steps": {"expert": SHARED, "session": OWN}},
    "12_c": PLACE | {"own_seconds": 6.0, "steps": {}},
}


def test_workers_share_the_steps():
    assert costs.minutes(RECORDS["11_b"]) == pytest.approx(0.5 + (240 + 120) / 2 / 60)
    assert costs.minutes(RECORDS["11_b"], without=["expert"]) == pytest.approx(0.5 + 120 / 2 / 60)


def test_memory_is_that_of_the_largest_steps_at_once_or_what_was_measured():
    assert costs.memory(RECORDS["11_b"]) == 700 + 2 * 500
    assert costs.memory(RECORDS["12_c"]) == 900


def test_a_shared_step_counts_once_in_the_table_and_in_every_box():
    table = costs.table(RECORDS).splitlines()
    assert table[2:6] == [
        "| 10_a | 3.0 | 1.7 GB |",
        "| 11_b | 1.5 | 1.7 GB |",
        "| 12_c | 0.1 | 0.9 GB |",
        "| **all** | **5** | |",
    ]
    assert "shared by 2 workers, at the laptop profile (2 cores, cpu)" in table[-2]
    assert "3.5 minutes from an empty cache, 1700 MB" in costs.box(RECORDS["11_b"])
    assert costs.box(None) == "> **Cost:** not measured yet."
