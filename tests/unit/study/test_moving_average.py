"""TIME's strategies as learners of MTIL: folds in closed form, who starts where, what is shared, WiSE-FT's update."""

from dataclasses import replace

import pytest
import torch

from clipmerge.clip import models
from clipmerge.clip.compute import Compute
from clipmerge.errors import BadInput
from clipmerge.merge import apply_delta
from clipmerge.merge.lines import Lines
from clipmerge.study import experts, profiles
from clipmerge.study.baselines import wise_ft
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import protocol

SMOKE = profiles.load("smoke")
TASKS = ("digits", "solarcells", "landcover")
TINY = replace(SMOKE, compute=Compute(), data=replace(SMOKE.data, tasks=TASKS))


def kept(method, **options):
    """What a method keeps after each of three sessions."""
    changed = replace(TINY, baselines=replace(TINY.baselines, options={method: options}))
    return protocol.kept(changed, method, 0, TASKS)


def state(step):
    """Whole weights of a computed step, fp64."""
    whole = apply_delta(models.create(TINY.model).state_dict(), experts.delta(store.get(step)))
    return {name: tensor.double() for name, tensor in whole.items()}


def close(ours, theirs):
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=2e-6)


def base():
    return {name: tensor.double() for name, tensor in models.create(TINY.model).state_dict().items()}


def mixed(shares, states):
    return {name: sum(w * s[name] for w, s in zip(shares, states, strict=True)) for name in states[0]}


def test_the_average_of_a_trajectory_in_closed_form():
    links = [base(), *map(state, kept("continual-ft"))]
    close(state(kept("ft/ema")[-1]), mixed([0.125, 0.125, 0.25, 0.5], links))
    close(state(kept("ft/ema", ema_weight=0.9)[1]), mixed([0.01, 0.09, 0.9], links[:3]))


def test_lines_scales_every_fold_by_layer():
    zero, first, second = base(), *map(state, kept("continual-ft")[:2])
    factor = Lines(alpha=0.2, beta=0.6).factors(zero)
    assert len(set(factor.values())) > 2
    running = zero
    for expert in (first, second):
        fold = mixed([0.5, 0.5], [expert, running])
        running = {name: zero[name] + factor[name] * (fold[name] - zero[name]) for name in zero}
    close(state(kept("ft/lines", alpha=0.2, beta=0.6)[1]), running)


def test_each_task_starts_from_the_moving_average():
    first, second, third = kept("ema/ema")
    link = protocol.kept(TINY, "continual-ft", 0, TASKS)[0]
    assert first.inputs["model.000"].key == link.key and "model.001" not in first.inputs
    for earlier, later in ((first, second), (second, third)):
        expert = later.inputs["model.000"]
        assert later.inputs["model.001"].key == expert.inputs["start"].key == earlier.key
        assert expert.config["recipe"]["lr"] == TINY.chain.lr


def test_what_follows_continual_fine_tuning_trains_nothing():
    links = {step.key for step in kept("continual-ft")}
    for method in ("ft/ema", "ft/lines"):
        assert {step.inputs["model.000"].key for step in kept(method)} == links


def test_the_update_is_that_of_sequential_wise_ft():
    first, second, _ = kept("ema/ema", ema_weight=0.8)
    expert = second.inputs["model.000"]
    inputs = experts.base_inputs(TINY.model, first)
    config = {**expert.config, "options": {"share": 0.8}}
    other = Step(wise_ft.learn, "test/wise-ft", config, inputs, expert.seed)
    close(state(second), state(other))


def test_options_are_checked():
    with pytest.raises(BadInput, match="weight: expected a number between 0 and 1, found 2"):
        kept("ema/ema", ema_weight=2.0)
    with pytest.raises(BadInput, match=r"baselines\.options\.ft/lines\.gamma: expected one of ema_weight, alpha, beta"):
        kept("ft/lines", gamma=1.0)
