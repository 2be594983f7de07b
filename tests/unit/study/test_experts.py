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


def test_validation_images_are_graded_and_not_learned_from():
    data = datasets.limit(datasets.load("digits"), 10, 1)
    trial = replace(SMOKE, data=replace(SMOKE.data, per_class_train=10, validation=4))
    split = experts.dataset(experts.task_config(trial, "digits"))
    fit, held = datasets.validation_split(data, seed=4)
    assert len(split.train_labels) == len(fit) == 80 and torch.equal(split.train_images, data.train_images[fit])
    assert len(split.test_labels) == len(held) == 20 and torch.equal(split.test_images, data.train_images[held])
    assert torch.equal(split.test_labels, data.train_labels[held]) and split.classes == data.classes


def test_without_their_peculiarities_all_ways_of_tuning_are_one(expert, tmp_path):
    for fn, more in ((experts.tune, {"shots": 10**6}), (wise_ft.learn, {"options": {"share": 1.0}})):
        out = tmp_path / fn.__name__
        out.mkdir()
        same = experts.delta(_run(Step(fn, "same", STEP.config | more, {}, STEP.seed), out))
        assert all(torch.equal(same[key], value) for key, value in experts.delta(expert).items()), fn
