"""Task-agnostic inference on three small tasks: it must agree with the protocol wherever the two ask the same."""

from dataclasses import asdict, replace

import pytest

from clipmerge.clip import evaluate, models
from clipmerge.clip.compute import Compute
from clipmerge.study import experts, profiles
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import grading, protocol, voting
from clipmerge.study.routing import agnostic, ensemble, radius

SMOKE = profiles.load("smoke")
TASKS = ("surfaces", "solarcells", "landcover")
PROFILE = replace(
    SMOKE,
    compute=Compute(),
    data=replace(SMOKE.data, tasks=TASKS),
    mtil=replace(SMOKE.mtil, order=(), k=1),
    inference=replace(SMOKE.inference, average_seeds=(0,)),
)


@pytest.fixture(scope="module", params=["experts", "condu-ft"])
def answered(request):
    """A method and all its sessions, identity unknown."""
    return request.param, agnostic.sessions(PROFILE, request.param, 0)


def test_unseen_tasks_are_answered_as_in_the_protocol(answered):
    method, found = answered
    known = protocol.plan(PROFILE, method, 0)
    store.build(known)
    a = protocol.matrix(known, TASKS)
    own = found[found.space == "own"].pivot(index="session", columns="task", values="value")[list(TASKS)].to_numpy()
    for t in range(3):
        assert own[t, t + 1 :] == pytest.approx(a[t, t + 1 :])


def test_label_spaces_are_ordered_and_meet_at_the_end(answered):
    _, found = answered
    by = found.pivot(index=["session", "task"], columns="space", values="value")
    assert (by.own >= by.seen).all() and (by.seen >= by.union).all()
    assert (by.seen.loc[3] == by.union.loc[3]).all()


@pytest.mark.parametrize("method", ["rail", "zscl", "moe-adapters"])
def test_baselines_are_the_protocols_in_more_label_spaces(method):
    profile = replace(PROFILE, inference=replace(PROFILE.inference, baselines=(method,)))
    known = protocol.plan(profile, method, 0)
    store.build(known)
    a = protocol.matrix(known, TASKS)
    found = agnostic.sessions(profile, method, 0)
    own = found[found.space == "own"].pivot(index="session", columns="task", values="value")[list(TASKS)].to_numpy()
    assert own == pytest.approx(a)
    by = found.pivot(index=["session", "task"], columns="space", values="value")
    assert (by.seen.loc[3] == by.union.loc[3]).all() and (by.own > by.union).any()
    if method != "rail":  # whose zero-shot part is a softmax over the space
        assert (by.own >= by.seen).all() and (by.seen >= by.union).all()


def test_baselines_have_the_seeds_there_are():
    profile = replace(PROFILE, inference=replace(PROFILE.inference, baselines=("rail", "zscl")))
    assert [agnostic.baselines(profile, seed) for seed in (0, 1)] == [["rail", "zscl"], ["rail"]]
    assert set(profile.baselines.seeds) == {0}


def test_a_panel_answers_as_the_step_does():
    rules = {"k": 1, grading.RADIUS: asdict(PROFILE.inference.radius)}
    config = experts.config(PROFILE, TASKS) | rules | {"seen": 3, "known": False, "spaces": list(voting.SPACES)}
    inputs = {"features": ensemble.base_step(PROFILE)} | experts.base_inputs(PROFILE.model)
    inputs |= {"session": protocol.kept(PROFILE, "condu-ft", 0)[-1]}
    folder = store.get(Step(grading.grade, "agnostic/test", config, inputs))
    found = agnostic.sessions(PROFILE, "condu-ft", 0).query("session == 3")
    panel = ensemble.load(PROFILE, "condu-ft", 0)
    fenced = radius.last(panel, radius.margins(PROFILE), PROFILE.inference.radius.tau)
    for scheme, rows in ((grading.FULL, found), (grading.RADIUS, fenced)):
        asked = {space: grading.read(folder, scheme, space)[0] for space in voting.SPACES}
        for row in rows.itertuples():
            assert row.value == pytest.approx(asked[row.space][row.task])


def test_a_radius_is_graded_session_by_session():
    rows = radius.run(PROFILE, [0]).query("method == 'condu-ft, radius rule' and task == 'landcover'")
    earlier = agnostic.read(agnostic.earlier(PROFILE, "condu-ft", 0), grading.RADIUS).query("task == 'landcover'")
    own = earlier[earlier.space == "own"].value.tolist()
    last = rows.query("metric == 'last' and space == 'own'").value.item()
    assert len(own) == 2  # it is the third task: unseen twice
    assert rows.query("metric == 'transfer'").value.item() == pytest.approx(sum(own) / 2)
    average = rows.query("metric == 'average' and space == 'own'").value.item()
    assert average == pytest.approx((sum(own) + last) / 3)
    assert set(rows.query("metric == 'average'").space) == set(voting.SPACES)


def test_no_expert_and_no_base_but_zero_shot():
    panel = ensemble.load(PROFILE, "condu-ft", 0)
    scores = ensemble.similarities(panel, ensemble.prototypes(PROFILE))
    graded = ensemble.grade(panel, {"K = 0": {u: voting.weights(scores[u], 0) for u in TASKS}}, ["own"])
    base = models.create(PROFILE.model)
    for row in graded.itertuples():
        data = experts.dataset(experts.task_config(PROFILE, row.task))
        assert row.value == pytest.approx(evaluate.test_accuracy(base, PROFILE.model, data))
