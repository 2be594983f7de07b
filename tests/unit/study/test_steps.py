"""The key of a step: what moves it, what does not, and what is refused."""

import json
import os
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipmerge.errors import BadInput
from clipmerge.study.cache import step
from clipmerge.study.cache.step import Step

NAMES = st.text(min_size=1, max_size=3)
LEAVES = st.integers(-5, 5) | st.text(max_size=3) | st.booleans() | st.none() | st.lists(st.integers(), max_size=2)
CONFIGS = st.dictionaries(NAMES, LEAVES | st.dictionaries(NAMES, LEAVES, max_size=3))


def work(out, *, config, inputs, seed):
    """A step function; never run here."""


def other(out, *, config, inputs, seed):
    """Another one in the same module."""


@dataclass(frozen=True)
class Recipe:
    """A record, as profiles hold them."""

    lr: float
    tasks: tuple[str, ...]


def _reversed(tree):
    return {key: _reversed(value) if isinstance(value, dict) else value for key, value in reversed(tree.items())}


@given(CONFIGS)
def test_order_of_keys_does_not_count(config):
    assert Step(work, "s", config).key == Step(work, "s", _reversed(config)).key


@given(CONFIGS, CONFIGS)
def test_different_configs_have_different_keys(one, two):
    first, second = Step(work, "s", one), Step(work, "s", two)
    same = json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)  # not ==, for which 1 is True
    assert (first.key == second.key) == same


def test_everything_that_matters_moves_the_key(tmp_path, monkeypatch):
    file = tmp_path / "weights"
    file.write_text("one")
    base = Step(work, "s", {"lr": 1e-4}, {"base": file})
    variants = [
        Step(work, "s", {"lr": 2e-4}, {"base": file}),
        Step(work, "s", {"lr": 1e-4}, {"start": file}),
        Step(work, "s", {"lr": 1e-4}),
        Step(work, "s", {"lr": 1e-4}, {"base": base}),
        Step(work, "s", {"lr": 1e-4}, {"base": file}, seed=1),
        Step(other, "s", {"lr": 1e-4}, {"base": file}),
    ]
    file.write_text("two")
    os.utime(file, (1, 1))  # a date of its own, even where clocks of file systems are coarse
    variants.append(Step(work, "s", {"lr": 1e-4}, {"base": file}))
    file.write_text("one")
    os.utime(file, (2, 2))
    monkeypatch.setattr(torch, "__version__", "99.0.1")
    variants.append(Step(work, "s", {"lr": 1e-4}, {"base": file}))
    assert len({base.key, *(step.key for step in variants)}) == len(variants) + 1
    monkeypatch.undo()
    moved = tmp_path / "elsewhere"
    moved.write_text("one")
    assert Step(work, "another/name", {"lr": 1e-4}, {"base": moved}).key == base.key


def test_torch_patch_releases_do_not_count(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.99.0+cpu")
    before = Step(work, "s").key
    monkeypatch.setattr(torch, "__version__", "2.99.1+cu130")
    assert Step(work, "s").key == before


def test_records_and_tuples_become_plain():
    step = Step(work, "s", {"finetune": Recipe(1e-4, ("digits", "flags"))})
    assert step.config == {"finetune": {"lr": 1e-4, "tasks": ["digits", "flags"]}}


def test_changes_read_like_sentences():
    old = Step(work, "s", {"lr": 1e-4, "data": {"limit": 4}}).parts
    new = Step(work, "s", {"lr": 2e-4, "k": 3, "data": {"limit": None}}, seed=1).parts
    assert step.changes(old, new) == [
        "config.data.limit 4 → None",
        "config.k (none) → 3",
        "config.lr 0.0001 → 0.0002",
        "seed 0 → 1",
    ]
    old = {**old, "inputs": {"base": "1"}}
    new = {**old, "code": dict.fromkeys(old["code"], "0"), "inputs": {"base": "2"}}
    assert step.changes(old, new) == [f"code.{__name__} changed", "inputs.base changed"]


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "a b", "a\n"])
def test_names_stay_inside_the_cache(name):
    with pytest.raises(BadInput, match="step name: expected letters"):
        Step(work, name)


@pytest.mark.parametrize("value", [torch.zeros(2), {1, 2}, float("nan"), Recipe])
def test_config_must_be_plain(value):
    with pytest.raises(BadInput, match="step s: config: expected plain values"):
        Step(work, "s", {"x": value})


def test_inputs_must_exist(tmp_path):
    with pytest.raises(BadInput, match="step s: base: expected a step, a step's folder or a file, found .*nothing"):
        Step(work, "s", inputs={"base": tmp_path / "nothing"})
