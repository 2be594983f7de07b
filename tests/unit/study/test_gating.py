"""Calibration by hand, temperatures and routers on data whose answer is known."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from clipmerge.errors import BadInput
from clipmerge.study.routing import calibration, gates


def blobs(n=60, tasks=3, dim=8, seed=0):
    """Unit features around one centre for each task, and the task of each."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.eye(dim)[:tasks]
    task = torch.arange(n) % tasks
    noisy = centres[task] + 0.35 * torch.randn(n, dim, generator=generator)
    return torch.nn.functional.normalize(noisy, dim=-1), task


def test_ece_by_hand():
    confidence = torch.tensor([0.95, 0.85, 0.9, 0.55])
    right = torch.tensor([True, False, True, True])
    table = calibration.reliability(confidence, right, bins=2)  # (0, ½] is empty
    assert table.values.tolist() == [[1, pytest.approx(0.8125), 0.75, 1.0]]
    ten = calibration.reliability(confidence, right)
    golden = [[5, 0.55, 1.0, 0.25], [8, 0.875, 0.5, 0.5], [9, 0.95, 1.0, 0.25]]
    np.testing.assert_allclose(ten.values, golden, atol=1e-6)
    assert calibration.ece(ten) == pytest.approx(0.25 * 0.45 + 0.5 * 0.375 + 0.25 * 0.05, abs=1e-6)


def test_weighted_ece_counts_shares():
    confidence, right = torch.tensor([0.9, 0.6]), torch.tensor([True, False])
    share = torch.tensor([0.75, 0.25])
    found = calibration.ece(calibration.reliability(confidence, right, share))
    assert found == pytest.approx(0.75 * 0.1 + 0.25 * 0.6, abs=1e-6)


def test_a_gate_that_is_sure_and_right_has_no_error():
    table = calibration.reliability(torch.ones(5), torch.ones(5, dtype=torch.bool))
    assert calibration.ece(table) == 0
    with pytest.raises(BadInput, match="confidence"):
        calibration.reliability(torch.tensor([1.5]), torch.tensor([True]))


def test_every_task_counts_the_same():
    share = gates.balance(torch.tensor([0, 0, 0, 2]), 3)
    assert share.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_temperature_is_the_best_on_a_grid():
    z, task = blobs()
    scores = z[:, :3]
    found = gates.temperature(scores, task)

    def loss(tau):
        return gates.surprise((scores.double() / tau).log_softmax(1), task)

    assert all(loss(found) <= loss(tau) + 1e-6 for tau in np.geomspace(0.01, 2, 25))


def test_temperature_leaves_the_ranking_alone():
    z, task = blobs()
    gate = {"prototypes.a": torch.eye(8)[:1], "prototypes.b": torch.eye(8)[1:2], "tau": torch.tensor([0.3])}
    plain, calibrated = (gates.probabilities(gate, kind, z, ["a", "b"]) for kind in ("cosine", "calibrated"))
    assert torch.equal(plain.argmax(1), calibrated.argmax(1))
    assert (calibrated.amax(1) <= plain.amax(1) + 1e-6).all()  # 0.3 is warmer than CLIP's 0.01


def test_router_is_what_sklearn_says_and_the_same_every_time():
    x, y = blobs()
    x_val, y_val = blobs(30, seed=1)
    router, strength = gates.route(x, y, x_val, y_val, 3)
    again, _ = gates.route(x, y, x_val, y_val, 3)
    assert torch.equal(router, again)
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000, tol=1e-3).fit(x.double(), y)
    p = gates.router_logits(router, x_val).softmax(1)
    np.testing.assert_allclose(p.numpy(), model.predict_proba(x_val.double()), atol=1e-9)
    assert (p.argmax(1) == y_val).float().mean() > 0.8


def test_rules_of_a_gate():
    p = torch.tensor([[0.7, 0.2, 0.1]])
    assert calibration.rule("first choice alone", p, 2).tolist() == [[0.0, 1.0, 0.0, 0.0]]
    torch.testing.assert_close(calibration.rule("mixture", p, 2), torch.tensor([[0.0, 0.7, 0.2, 0.1]]))
    torch.testing.assert_close(calibration.rule("nearest K and base", p, 2), torch.tensor([[1.0, 1.0, 1.0, 0.0]]) / 3)
    with pytest.raises(BadInput, match="rule"):
        calibration.rule("loudest", p, 2)


def test_reliability_is_a_table():
    assert isinstance(calibration.reliability(torch.tensor([0.5]), torch.tensor([True])), pd.DataFrame)
