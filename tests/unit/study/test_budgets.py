"""Counted costs: the published budget table is met, and frozen towers cost less."""

import pytest
import torch

from clipmerge.clip import models
from clipmerge.errors import BadInput
from clipmerge.study.time import budgets


def test_operations_of_a_vit_b_16_are_those_of_the_published_table():
    published = budgets.reported().pivot_table(index="method", columns="metric", values="value")
    counted = budgets.table("ViT-B-16", 512, 28_400)
    assert counted["full-ft"]["steps"] == published.steps["full-ft"]
    for scheme, values in counted.items():
        assert values["gflops"] == pytest.approx(published.gflops[scheme], rel=0.015)
    assert counted["locked-text"]["steps"] == pytest.approx(published.steps["locked-text"], rel=0.01)


def test_what_is_frozen_costs_less_and_text_length_counts():
    short, whole = (budgets.table("nano-xs", 4, 100, tokens) for tokens in (budgets.captions("nano-xs"), None))
    assert short["full-ft"]["gflops"] < whole["full-ft"]["gflops"]
    assert all(v["steps"] > 100 and v["memory factor"] < 1 for k, v in short.items() if k != "full-ft")


def test_an_unknown_scheme_is_refused():
    with pytest.raises(BadInput, match="scheme: expected one of full-ft"):
        budgets.cost(models.create("nano-xs", pretrained=None), torch.zeros(1), torch.zeros(1), "prompt-tuning")
