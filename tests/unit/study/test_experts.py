"""Experts as steps: what every step that tunes begins and ends with, and that those which differ in nothing agree."""

from dataclasses import replace

import pytest
import torch

from clipmerge import files
from clipmerge.clip import datasets, models
from clipmerge.merge import apply_delta
from clipmerge.study import experts, profiles
from clipmerge.study.baselines import wise_ft
from clipmerge.study.cache.step import Step

SMOKE = profiles.load("smoke")
TINY = replace(SMOKE, finetune=replace(SMOKE.finetune, steps=2, warmup=1, batch=4))
STEP = experts.step(TINY, "digits", seed=3)


@pytest.fixture(scope="module")
def expert(tmp_path_factory):
    """The folder of an expert, tuned two steps long."""
    return _run(STEP, tmp_path_factory.mktemp("expert"))


def _run(step: Step, out, **inputs):
    step.fn(out, config=step.config, inputs=inputs, seed=step.seed)
    return out


def test_a_step_leaves_what_it_has_changed_and_its_log(expert):
    base, delta = models.create(TINY.model).state_dict(), experts.delta(expert)
    assert delta.keys() <= base.keys() and not delta["logit_scale"].any()
    assert any(tensor.abs().max() > 0 for tensor in delta.values())
    assert [row["step"] for row in files.read_json(expert / experts.LOG)] == [0, 1]


def test_a_learner_starts_from_the_base_or_where_the_last_one_ended(expert):
    weights, config = models.create(TINY.model).state_dict(), {"model": TINY.model}
    for inputs, wanted in (({}, weights), ({"start": expert}, apply_delta(weights, experts.delta(expert)))):
        model, base = experts.learner(config, inputs)
        now = model.state_dict()
        assert all(torch.equal(base[key], weights[key]) for key in weights)
        assert all(torch.equal(now[key].cpu(), wanted[key]) for key in weights)
        torch.nn.init.zeros_(model.text_projection)  # training the model must not move the base
        assert torch.equal(base["text_projection"], weights["text_projection"])


def test_a_held_out_part_is_not_learned_from():
    data = datasets.limit(datasets.load("digits"), 10, 1)
    assert experts.usable({}, data, 0).tolist() == list(range(100))
    left, held = experts.usable({"held_out": 4}, data, 0), datasets.validation_split(data, seed=4)[1]
    assert len(held) and sorted(left.tolist() + held.tolist()) == list(range(100))


def test_without_their_peculiarities_all_ways_of_tuning_are_one(expert, tmp_path):
    for fn, more in ((experts.tune, {"shots": 10**6}), (wise_ft.learn, {"options": {"share": 1.0}})):
        out = tmp_path / fn.__name__
        out.mkdir()
        same = experts.delta(_run(Step(fn, "same", STEP.config | more, {}, STEP.seed), out))
        assert all(torch.equal(same[key], value) for key, value in experts.delta(expert).items()), fn
