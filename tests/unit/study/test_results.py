"""Tidy rows: building, summarising, and the reported numbers."""

import numpy as np
import pandas as pd
import pytest

from clipmerge.errors import BadInput
from clipmerge.study import results

TASKS = ("digits", "flags")
MATRIX = [[90.0, 30.0], [80.0, 70.0]]


def _frame(seed=0, shift=0.0):
    return results.mtil_rows(
        np.array(MATRIX) + shift, TASKS, method="condu-ft", seed=seed, n={"digits": 797, "flags": 120}, model="nano-s"
    )


def test_rows_have_the_contract_columns_first():
    frame = results.rows({"digits": 50.0}, method="average", metric="last", seed=1, n=797, model="nano-s")
    assert tuple(frame.columns) == (*results.COLUMNS, "model")
    assert frame.iloc[0].to_dict() == {
        "method": "average", "task": "digits", "metric": "last", "seed": 1, "value": 50.0, "n": 797,
        "source": "ours", "model": "nano-s",
    }  # fmt: skip


def test_mtil_rows():
    value = _frame().set_index(["metric", "task"]).value
    assert value["transfer"].to_dict() == {"flags": 30, "mean": 30}
    assert value["average"].to_dict() == {"digits": 85, "flags": 50, "mean": 67.5}
    assert value["last"].to_dict() == {"digits": 80, "flags": 70, "mean": 75}


def test_means_have_no_test_size():
    frame = _frame()
    assert frame[frame.task == "mean"].n.isna().all()
    assert frame[frame.task == "digits"].n.eq(797).all()


def test_matrix_rows_number_sessions_from_one():
    frame = results.matrix_rows(MATRIX, TASKS, method="condu-ft", seed=0)
    back = frame.pivot(index="session", columns="task", values="value")
    assert back.index.tolist() == [1, 2]
    assert back[list(TASKS)].to_numpy().tolist() == MATRIX


def test_tasks_must_fit_the_matrix():
    with pytest.raises(ValueError, match="zip"):
        results.matrix_rows(MATRIX, ("digits",), method="condu-ft", seed=0)


def test_a_missing_column_is_named():
    with pytest.raises(BadInput, match="none called source"):
        results.tidy(_frame().drop(columns="source"))


def test_summary_over_seeds():
    frame = pd.concat([_frame(seed, shift) for seed, shift in enumerate((-1.0, 0.0, 1.0))])
    summary = results.summarise(frame)
    last = summary.query("metric == 'last' and task == 'mean'").iloc[0]
    assert (last["mean"], last.sd, last.seeds) == (75, 1, 3)
    assert len(summary) == len(_frame())
    assert summary.task.tolist() == _frame().task.tolist()


def test_one_seed_has_no_spread():
    assert results.summarise(_frame()).sd.isna().all()


def test_reported_keeps_every_row_and_cites_it():
    frame = results.reported()
    assert len(frame) == 1138
    assert tuple(frame.columns[: len(results.COLUMNS)]) == results.COLUMNS
    assert (frame.source.str.len() > 0).all()
    assert set(frame.printed[frame.value.isna()]) >= {"~1%", "none"}


def test_reported_condu():
    frame = results.reported("MTIL Order I", "transfer")
    mean = frame[(frame.task == "mean")].set_index("method").value
    assert (mean["condu-ft"], mean["condu-lora"], mean["rail-dual"]) == (70.8, 70.3, 69.4)
    assert sorted(mean["zero-shot"]) == [65.3, 69.4]


def test_reported_filters_are_exact():
    with pytest.raises(BadInput, match="setting: expected one of MTIL Order I, .*; found MTIL X$"):
        results.reported("MTIL X")
    with pytest.raises(BadInput, match="metric: expected one of"):
        results.reported(metric="Transfer")


def test_caller_cannot_spoil_the_cached_tables():
    reported = results.reported()
    reported["value"] = 0
    results.matrices()["zscl"][:] = 0
    assert results.reported().value.max() > 0
    assert results.matrices()["zscl"].max() > 0


def test_matrices():
    tables = results.matrices()
    assert set(tables) == {"continual-ft", "lwf", "icarl", "lwf-vr", "wise-ft", "zscl*", "zscl"}
    assert all(matrix.shape == (11, 11) for matrix in tables.values())
    assert results.matrix_tasks()[0] == "Aircraft" and results.matrix_tasks()[-1] == "SUN397"
    assert tables["continual-ft"][0, :2] == pytest.approx([62.616262, 67.108295])
