"""The contract of methods: a new one is a few lines; and every step that shows something to a model asks `Compute`."""

from dataclasses import dataclass, replace

import pytest

from clipmerge.clip import device
from clipmerge.clip.compute import Compute
from clipmerge.errors import BadInput
from clipmerge.study import experts, profiles
from clipmerge.study.analysis import ablations, resources, similarity, triggers
from clipmerge.study.cache import codehash
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import contract, fewshot, many_tasks, protocol
from clipmerge.study.condu import lora as condu_lora
from clipmerge.study.condu.contract import Session, method
from clipmerge.study.routing import agnostic, ensemble, gates, inference
from clipmerge.study.time import decoupled, loop, pipeline, streams

SMOKE = profiles.load("smoke")
TASKS = ("digits", "solarcells", "landcover")
TINY = replace(SMOKE, compute=Compute(), data=replace(SMOKE.data, tasks=TASKS))


@dataclass(frozen=True)
class Options:
    """newest: whether the newest expert is kept, or the oldest."""

    newest: bool = True


@pytest.fixture
def one_expert():
    """A baseline of one file, entered and taken out again."""

    @method("one-expert", answers="single")
    def keep(session: Session) -> Step:
        return session.experts[-1 if session.options(Options).newest else 0]

    yield
    del contract.METHODS["one-expert"]


def test_a_new_method_is_a_decorated_function(one_expert):
    rows = protocol.run(TINY, ("one-expert", "experts"), seeds=[0])
    last = rows[(rows.metric == "last")].pivot(index="task", columns="method", values="value")
    assert last.loc["landcover", "one-expert"] == last.loc["landcover", "experts"]
    options = {"one-expert": {"newest": False}}
    oldest = protocol.run(replace(TINY, baselines=replace(TINY.baselines, options=options)), ("one-expert",), seeds=[0])
    last = oldest[oldest.metric == "last"].set_index("task").value
    own = rows[(rows.method == "experts") & (rows.metric == "accuracy") & (rows.session == 1)].set_index("task").value
    assert last["digits"] == own["digits"]


def test_what_nobody_has_entered_is_named():
    with pytest.raises(BadInput, match="method: expected one of .*condu-ft.*; found 'two-experts'"):
        protocol.plan(TINY, "two-experts", 0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"l22": {}}, r"smoke: baselines\.options: expected one of .*l2, .*; found 'l22'"),
        ({"l2": {"strength": "much"}}, r"smoke: baselines\.options\.l2\.strength: expected a number, found 'much'"),
    ],
)
def test_options_nobody_has_are_named(options, says):
    with pytest.raises(BadInput, match=says):
        protocol.plan(replace(TINY, baselines=replace(TINY.baselines, options=options)), "l2", 0)


@pytest.mark.parametrize("name", profiles.names())
def test_options_of_every_profile_are_known(name):
    profile = profiles.load(name)
    for given in profile.baselines.options:
        assert given in contract.METHODS
    with device.nowhere():
        for given in contract.METHODS:
            protocol.plan(profile, given, 0, TASKS)


def planned() -> list[Step]:
    """A step of every kind there is."""
    every = [step for name in contract.METHODS for step in protocol.plan(TINY, name, 0)]
    every += [step for name in fewshot.METHODS for step in fewshot.plan(TINY, name, 0)]
    every += [step for kind in condu_lora.KINDS for step in condu_lora.plan(TINY, kind, 0)]
    every += [*agnostic.plan(replace(TINY, inference=replace(TINY.inference, average_seeds=(0,))), 0)]
    every += [*inference.tuned_features(TINY, 0), gates.step(TINY, ensemble.base_step(TINY), 0)]
    every += [ablations.step(TINY, name, 0) for name in (*TINY.inside.rules, *TINY.inside.techniques)]
    every += [similarity.step(TINY, 0), *resources.plan(TINY, 0).values(), *triggers.plan(TINY, 0).values()]
    every += many_tasks.plan(SMOKE, 0).values()
    stream = streams.make(SMOKE)
    run = loop.plan(pipeline.Setting(SMOKE, stream), loop.Strategy("ema", "ema"))
    return [*every, *run.graded.values(), decoupled.grade(pipeline.Setting(SMOKE, stream))]


def test_every_step_that_shows_something_to_a_model_asks_compute():
    waiting, met = planned(), {}
    while waiting:
        step = waiting.pop()
        if step.key not in met:
            met[step.key] = step
            waiting += [value for value in step.inputs.values() if isinstance(value, Step)]
    forward = {("clipmerge.clip.models", name) for name in ("encode_image", "encode_text")}
    asking = {step.parts["function"]: "compute" in step.config for step in met.values()}
    showing = {step.parts["function"] for step in met.values() if forward & codehash.reached(step.fn)}
    assert len(showing) > 15
    assert {name for name in showing if not asking[name]} == set()
    assert {name for name, asks in asking.items() if asks} == showing
    assert experts.tune.__qualname__ in {name.rpartition(".")[2] for name in showing}
