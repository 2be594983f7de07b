"""LoRA experts through ConDU: the kinds of delta, the round trip of factors, the rows Table 1 asks for."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from clipmerge.clip import lora as factors_of
from clipmerge.clip.compute import Compute
from clipmerge.errors import BadInput
from clipmerge.merge import condu, deltas, folder
from clipmerge.study import experts, profiles
from clipmerge.study.cache import store
from clipmerge.study.condu import grading, protocol, sessions
from clipmerge.study.condu import lora as condu_lora
from clipmerge.study.experts import lora

SMOKE = profiles.load("smoke")
TASKS = ("digits", "flags")
PROFILE = replace(SMOKE, compute=Compute(), data=replace(SMOKE.data, tasks=TASKS))
CONFIG = condu_lora.start_config(PROFILE, 0)


def random_change(seed):
    """Factors moved by random amounts."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(f.shape, generator=generator) / 10 for name, f in lora.start(CONFIG).items()}


def test_factors_alone_in_a_session_come_back_as_they_were(tmp_path):
    change = random_change(0)
    folder.save(condu.unify([change]), tmp_path / sessions.UNIFIED)
    found = sessions.bank({"session": tmp_path}, CONFIG)(0)
    expected = factors_of.product(deltas.apply_delta(lora.start(CONFIG), change))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-7, rtol=1e-6)


def test_factors_are_unified_one_by_one_and_multiplied_afterwards(tmp_path, monkeypatch):
    """By hand, rank 1. A: sums [3, 2], u = [2, 3]; B: sums [-2, 2], u = [-3, 1]; of the first expert [1 0], [0 1] stay.

    λ is the ratio of mean magnitudes, added over A and B: (1.5 + 1) / (1 + 0.5) and (2 + 2) / (2.5 + 2).
    """
    begin = {"l.A": torch.tensor([[1.0, 0.0]]), "l.B": torch.tensor([[0.0], [1.0]])}
    first = {"l.A": torch.tensor([[2.0, -1.0]]), "l.B": torch.tensor([[1.0], [1.0]])}
    second = {"l.A": torch.tensor([[1.0, 3.0]]), "l.B": torch.tensor([[-3.0], [1.0]])}
    folder.save(condu.unify([first, second]), tmp_path / sessions.UNIFIED)
    monkeypatch.setattr(lora, "start", lambda config: begin)
    bank = sessions.bank({"session": tmp_path}, CONFIG)
    torch.testing.assert_close(bank(0), {"l.weight": torch.tensor([[0.0, 0.0], [104 / 9, 0.0]])})
    torch.testing.assert_close(bank(1), {"l.weight": torch.tensor([[-200 / 27, -64 / 9], [425 / 81, 136 / 27]])})


def test_unifying_factors_is_not_unifying_products():
    first, second = random_change(0), random_change(1)
    apart = lora.multiply(lora.start(CONFIG), condu.decouple(condu.unify([first, second]), 0))
    whole = condu.unify([lora.multiply(lora.start(CONFIG), change) for change in (first, second)])
    name = next(iter(apart))
    assert (apart[name] - condu.decouple(whole, 0)[name]).abs().max() > 0.01


def test_another_initialisation_is_an_offset_all_tasks_share():
    tune = partial(condu_lora.step, PROFILE, seed=0)
    learner = condu_lora.learner(PROFILE, "other-init", 0, tune)
    other = store.build([learner.learn(task, None) for task in TASKS])
    plain = store.build([tune(task) for task in TASKS])
    offsets = []
    for shifted, true in zip(other, plain, strict=True):
        theirs, ours = experts.delta(shifted), experts.delta(true)
        offsets.append({name: theirs[name] - ours[name] for name in ours})
    for name, offset in offsets[0].items():
        torch.testing.assert_close(offset, offsets[1][name], atol=1e-7, rtol=0)
        assert offset.abs().max() > 1e-3


def test_rows_are_those_of_table_1():
    rows = condu_lora.run(PROFILE, seeds=[0])
    like = protocol.run(PROFILE, ("zero-shot",), seeds=[0])
    keys = ["task", "metric", "session"]
    assert list(rows) == list(like) and set(rows.method) == {"condu-lora"}
    assert rows[keys].fillna(0).values.tolist() == like[keys].fillna(0).values.tolist()
    again = condu_lora.run(PROFILE, seeds=[0], every=())
    both = rows[rows.metric == "last"].set_index("task").value
    assert again.set_index("task").value.to_dict() == both.to_dict()
    variant = condu_lora.run(PROFILE, seeds=[0], kind="product", every=())
    assert set(variant.method) == {"condu-lora-product"}


def test_factor_sessions_are_graded_like_the_products_they_stand_for():
    steps = {kind: condu_lora.plan(PROFILE, kind, 0)[0] for kind in ("product", "factors")}
    graded = {kind: grading.read(store.get(step)) for kind, step in steps.items()}
    assert graded["product"] == graded["factors"]  # the first session is lossless for either


def test_an_unknown_kind_is_named():
    with pytest.raises(BadInput, match="LoRA: kind: expected one of product, .*, experts, found 'sum'"):
        condu_lora.plan(PROFILE, "sum", 0)
