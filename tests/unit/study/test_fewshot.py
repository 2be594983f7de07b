"""Few-shot learning sees k images of each class and no more, and says so in its rows."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipmerge.clip import datasets
from clipmerge.clip.compute import Compute
from clipmerge.errors import BadInput
from clipmerge.study import experts, profiles
from clipmerge.study.cache import store
from clipmerge.study.condu import features, fewshot, grading

SMOKE = profiles.load("smoke")
TASKS = ("digits", "flags")
PROFILE = replace(SMOKE, compute=Compute(), data=replace(SMOKE.data, tasks=TASKS))
PROFILE = replace(PROFILE, few_shot=replace(SMOKE.few_shot, session_seeds=(0,)))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 7), st.integers(0, 3))
def test_a_draw_holds_k_of_each_class_and_follows_its_seed(labels, k, seed):
    labels = torch.tensor(labels)
    index = experts.draw(labels, k, seed)
    assert torch.equal(index, experts.draw(labels, k, seed)) and len(index.unique()) == len(index)
    counts = torch.bincount(labels, minlength=5)
    assert torch.equal(torch.bincount(labels[index], minlength=5), counts.clamp(max=k))


def test_seeds_draw_differently_and_no_shot_is_refused():
    labels = torch.arange(4).repeat(25)
    assert not torch.equal(experts.draw(labels, 5, 0), experts.draw(labels, 5, 1))
    with pytest.raises(BadInput, match="at least 1 image of each class, found 0"):
        experts.draw(labels, 0, 0)


def test_a_learner_of_few_shots_may_use_no_more():
    data = datasets.limit(datasets.load("digits"), 10, 1)
    assert experts.usable({}, data, 0).tolist() == list(range(100))
    index = experts.usable({"shots": 3}, data, seed=1)
    assert torch.equal(torch.bincount(data.train_labels[index]), torch.full((10,), 3))


def test_prototypes_use_the_shots_alone():
    seen = features.load(store.get(features.of_base(PROFILE, TASKS)))
    data = experts.dataset(experts.task_config(PROFILE, "digits"))
    index = experts.draw(data.train_labels, 2, 3)
    blind = {**seen, "train.digits": torch.zeros_like(seen["train.digits"])}  # whatever the other images show
    blind["train.digits"][index] = seen["train.digits"][index]
    found = features.prototypes(seen, "digits", index=index)
    assert torch.equal(found, features.prototypes(blind, "digits", index=index))
    assert (found - features.prototypes(seen, "digits")).abs().max() > 1e-3


def test_full_prototypes_give_what_the_ordinary_grade_gives():
    step = fewshot.plan(PROFILE, "condu-ft", 0)[0]
    config = {key: value for key, value in step.config.items() if key != "shots"}
    plain = store.get(replace(step, name="grade/test", config=config))
    assert grading.read(store.get(step)) == grading.read(plain)
    assert grading.read(store.get(step), grading.SHOTS)[0].keys() == grading.read(plain)[0].keys()


def test_rows_say_which_prototypes_and_leave_out_sessions_that_were_not_graded():
    rows = fewshot.run(PROFILE, ("zero-shot", "experts"), seeds=[0, 1])
    means = rows[rows.task == "mean"]
    assert set(means[means.seed == 0].metric) == {"transfer", "average", "last"}
    assert set(means[means.seed == 1].metric) == {"last"}
    assert rows.groupby("method").prototypes.unique().map(set).to_dict() == {
        "zero-shot": {"none"},
        "experts": {"shots", "full"},
    }
    last = rows[(rows.method == "experts") & (rows.metric == "last")].pivot_table(
        index=["seed", "task"], columns="prototypes", values="value"
    )
    assert (last.shots == last.full).all()  # after the last session nothing is unseen


def test_baselines_learn_from_the_shots_at_few_shot_rates():
    rows = fewshot.run(PROFILE, fewshot.BASELINES, seeds=[0])
    assert set(rows.prototypes) == {"none"} and rows.value.between(0, 100).all()
    means = rows[rows.task == "mean"].groupby("method").metric.unique().map(set)
    assert means.to_dict() == dict.fromkeys(fewshot.BASELINES, {"transfer", "average", "last"})
    plans = {method: fewshot.plan(PROFILE, method, 0)[-1].inputs for method in fewshot.BASELINES}
    learning = [plans["zscl"]["model"].config, plans["moe-adapters"]["adapters"].config]
    learning += [plans["moe-adapters"]["gate.02"].config, *plans["rail"]["sessions"].config["tasks"]]
    assert [config["shots"] for config in learning] == [PROFILE.few_shot.shots] * len(learning)
    assert learning[0]["recipe"]["lr"] == PROFILE.few_shot.lr
    assert [config["recipe"]["steps"] for config in learning[:2]] == [PROFILE.few_shot.steps] * 2


def test_chains_have_the_seeds_of_baselines():
    rows = fewshot.run(replace(PROFILE, seeds=(0, 1)), ("rail", "zscl"))
    assert rows.groupby("method").seed.unique().map(sorted).to_dict() == {"rail": [0, 1], "zscl": [0]}


def test_an_unknown_method_is_named():
    with pytest.raises(BadInput, match="few-shot: method: expected one of zero-shot, .*, found 'magic'"):
        fewshot.plan(PROFILE, "magic", 0)
