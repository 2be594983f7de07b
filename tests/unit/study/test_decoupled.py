"""ConDU on TIME's stream: who answers which image, by hand; what is kept after each task; accuracies of one expert."""

from dataclasses import replace

import pytest
import torch

from clipmerge import files
from clipmerge.clip import evaluate, models
from clipmerge.clip.compute import Compute
from clipmerge.clip.datasets import Dataset
from clipmerge.errors import BadInput
from clipmerge.merge import apply_delta, condu
from clipmerge.study import experts, profiles
from clipmerge.study.cache import store
from clipmerge.study.condu import sessions
from clipmerge.study.time import decoupled, decoupled_steps, loop, pipeline, steps, streams
from clipmerge.study.time.pipeline import Setting
from clipmerge.study.time.streams import Stream

SMOKE = profiles.load("smoke")
RECIPE = replace(SMOKE.temporal.recipe, steps=1, batch=6)
SETS = ("digits", "solarcells", "landcover")
TIME = replace(SMOKE.temporal, adaptation=SETS, heldout=("vehicles",), tasks=3, recipe=RECIPE)
TINY = replace(SMOKE, temporal=TIME, compute=Compute())
SETTING = Setting(TINY, streams.make(TINY))

# Cats have two classes, one learned in each task; the single class of dogs was learned in the second.
PROTOTYPES = {"cats": torch.tensor([[1.0, 0.0], [0.0, 1.0]]), "dogs": torch.tensor([[0.6, 0.8]])}
CHUNKS = [{"cats": [0]}, {"cats": [1], "dogs": [0]}]
# The first image is near its own class, the second near the other one. To dogs they are 0.8 and 0.936 near.
Z = torch.tensor([[0.96, 0.28], [0.28, 0.96]])


def small(name, labels, classes=2):
    """Test images that nobody looks at, with labels."""
    images = torch.zeros(len(labels), 32, 32, 3, dtype=torch.uint8)
    train = {"train_images": images[:0], "train_labels": torch.tensor([], dtype=torch.int64)}
    names = tuple(map(str, range(classes)))
    return Dataset(name, name, names, ("{}",), **train, test_images=images, test_labels=torch.tensor(labels))


def rules(name, labels, chunks=CHUNKS):
    """Weights by rule as lists, K = 1."""
    found = decoupled_steps.weights(small(name, labels), Z, PROTOTYPES, chunks, 1)
    return {rule: found[rule].tolist() for rule in decoupled.RULES}


def test_who_answers_a_known_image():
    assert rules("cats", [0, 0]) == {
        "routed": [[0, 1, 0], [0, 0, 1]],  # the second image goes to the wrong expert
        "told": [[0, 1, 0], [0, 1, 0]],
        "voted": [[0.5, 0.5, 0], [0.5, 0, 0.5]],
    }


def test_prototypes_of_other_datasets_do_not_route_but_do_vote():
    among = [{"cats": [0]}, {"dogs": [0]}]  # only the first task taught cats
    found = rules("cats", [0, 0], among)
    assert found["routed"] == [[0, 1, 0], [0, 1, 0]] and found["voted"] == [[0.5, 0.5, 0], [0.5, 0, 0.5]]


def test_a_class_that_nobody_taught_is_routed_and_an_unknown_dataset_voted_on():
    found = rules("cats", [0, 1], CHUNKS[:1])
    assert found["told"] == found["routed"] == [[0, 1], [0, 1]]
    birds = rules("birds", [0, 0])
    assert birds["routed"] == birds["told"] == birds["voted"] == [[0.5, 0.5, 0], [0.5, 0, 0.5]]


def test_where_a_task_is_a_dataset_the_rule_is_condus():
    found = rules("cats", [0, 1], [{"dogs": [0]}, {"cats": [0, 1]}])
    assert found["routed"] == found["told"] == [[0, 0, 1], [0, 0, 1]]


def test_passes_count_everybody_who_looks():
    weights = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])
    assert decoupled_steps.passes(weights, "told", known=True) == 1.5
    assert decoupled_steps.passes(weights, "told", known=False) == 2.5  # the base finds them
    assert decoupled_steps.passes(weights, "routed", known=True) == 2.5


def test_what_is_kept_is_condus_recursion_over_the_experts_of_the_offline_cells():
    offline = loop.loop(SETTING, loop.Strategy("zs", "all"))[-1].models
    trained = decoupled.trained(SETTING)
    assert [step.key for step in trained] == [step.key for step in offline]
    deltas = [experts.delta(store.get(step)) for step in trained]
    by_hand = condu.unify(deltas[:1])
    for newcomer in deltas[1:]:
        by_hand = condu.extend(by_hand, newcomer)
    kept = sessions.load(store.get(decoupled.unified(SETTING)[-1]))
    for number in range(3):
        ours, theirs = condu.decouple(kept, number), condu.decouple(by_hand, number)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def accuracy(step, file):
    return files.read_json(store.get(step) / file)["accuracy"]


def test_of_one_task_known_images_are_answered_by_its_expert_and_others_by_it_and_the_base():
    every = Stream("whole", (tuple(streams.pairs(SETS)),))
    setting = Setting(TINY, every)
    (expert,) = decoupled.trained(setting)
    own = accuracy(pipeline.grade(setting, expert, "full"), steps.ACCURACY)
    for bank in decoupled.BANKS:
        for rule in ("routed", "told"):
            found = accuracy(decoupled.grade(setting, bank), f"{rule}.json")
            assert {name: found[name] for name in SETS} == {name: own[name] for name in SETS}
    data = steps.seen(experts.dataset(experts.task_config(TINY, "vehicles")), None)
    model = models.create(TINY.model)
    both = evaluate.test_logits(model, TINY.model, data)
    model.load_state_dict(apply_delta(models.state(model), experts.delta(store.get(expert))))
    both = both + evaluate.test_logits(model, TINY.model, data)
    assert found["vehicles"] == pytest.approx(evaluate.accuracy(both, data.test_labels))


def test_rows_have_times_scores_by_rule_and_the_passes_of_every_set():
    plans = decoupled.plan(SETTING, "condu-ft")
    rows = loop.collect(plans)
    means = rows[rows.task == "mean"].pivot(index="metric", columns="rule", values="value")
    assert list(means) == sorted(decoupled.RULES) and list(means.index) == ["gm", "ka", "zs"]
    assert means.loc["zs"].nunique() == 1  # rules differ where a dataset is known
    counted = decoupled.passes(plans).pivot(index="task", columns="rule", values="value")
    assert (counted.loc[list(SETS), "told"] == 1).all() and (counted.loc[list(SETS), "routed"] == 2).all()
    assert (counted.loc["vehicles"] == 1 + min(TINY.mtil.k, 3)).all()


def test_after_the_first_task_only_its_expert_is_asked():
    step = decoupled.grade(SETTING, tasks=1)
    counted = files.read_json(store.get(step) / "voted.json")["passes"]
    assert set(counted.values()) == {2.0} and len(step.config["chunks"]) == 1


def test_what_cannot_be_asked_is_named():
    with pytest.raises(BadInput, match="bank: expected one of condu-ft, experts; found 'emr'"):
        decoupled.grade(SETTING, "emr")
    with pytest.raises(BadInput, match="tasks: expected 1 to 3, found 4"):
        decoupled.grade(SETTING, tasks=4)
