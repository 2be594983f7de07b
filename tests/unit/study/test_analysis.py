"""Ablations with all parts on are ConDU; counters count what they are shown; Fisher and CKA obey their laws."""

import math

import pytest
import torch

from clipmerge.clip import models
from clipmerge.errors import BadInput
from clipmerge.merge import condu
from clipmerge.study import experts, profiles
from clipmerge.study.analysis import ablations, drift, numerics, rules, similarity
from clipmerge.study.condu import reconstruction

PROFILE = profiles.load("smoke")


def some_deltas(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (40, 30), "b": (17,)}
    return [{n: torch.randn(s, generator=generator) * (k + 1) for n, s in shapes.items()} for k in range(count)]


def same(ours, theirs):
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("kind", condu.RESCALERS)
def test_one_shot_with_all_parts_on_is_unify_and_decouple(kind):
    deltas, rule = some_deltas(5), rules.Rule(rescaler=kind, recursive=False)
    unified = condu.unify(deltas, rescaler=kind)
    assert same(rules.unify(deltas, rule), unified.delta)
    for i, back in enumerate(rules.learn(deltas, rule)):
        assert same(back, condu.decouple(unified, i))


@pytest.mark.parametrize("kind", condu.RESCALERS)
def test_the_recursion_with_all_parts_on_is_extend(kind):
    deltas = some_deltas(5)
    unified = condu.unify(deltas[:1], rescaler=kind)
    for delta in deltas[1:]:
        unified = condu.extend(unified, delta)
    for i, back in enumerate(rules.learn(deltas, rules.Rule(rescaler=kind))):
        assert same(back, condu.decouple(unified, i))


def test_every_part_does_what_it_says():
    stack = torch.tensor([[3.0, 1.0, 1.0, 0.0], [-1.0, 1.0, 1.0, 0.0], [-1.0, -5.0, -2.0, 0.0]])
    assert rules.by_sum(stack).tolist() == [True, False, False, False]  # sums 1, −3, 0, 0
    assert rules.by_majority(stack).tolist() == [False, True, True, False]
    assert rules.by_majority(stack[:2]).tolist() == [True, True, True, False]  # one to one: the sum breaks the tie
    assert rules.by_largest(stack).tolist() == [True, False, False, False]
    assert rules.strongest(stack, rules.by_majority(stack)).tolist() == [-1, 1, 1, 0]
    assert rules.mean_of_agreeing(stack, rules.by_sum(stack)).tolist() == [3, -5, -2, 0]
    assert rules.mean_of_agreeing(stack, rules.by_majority(stack)).tolist() == [-1, 1, 1, 0]
    soft = rules.two_bits(torch.tensor([4.0, 1.3, 0.1, -1.0]), torch.full((4,), 4.0))
    assert torch.equal(soft, torch.tensor([3.0, 1.0, 0.0, 0.0]) / 3)


def test_without_mask_and_rescaler_all_tasks_get_the_same():
    first, *others = rules.learn(some_deltas(3), rules.RULES["mask=none rescaler=none"])
    assert all(same(first, other) for other in others)


def test_names_of_rules_say_what_differs_from_condu():
    assert rules.RULES["pool=mean rescaler=none"] == rules.Rule(pool="mean", rescaler="none")
    for rule in rules.RULES.values():
        assert rule.sign in rules.SIGNS and rule.pool in rules.POOLS and rule.mask in rules.MASKS
        assert rule.rescaler in condu.RESCALERS


def test_unknown_names_are_refused():
    with pytest.raises(BadInput, match="ablation: expected one of condu-ft, .*ties"):
        ablations.step(PROFILE, "soup", 0)


def test_flips_and_swaps_on_hand_made_deltas():
    before, after = {"w": torch.tensor([1.0, -2.0, 3.0, 0.0, 1.0])}, {"w": torch.tensor([-1.0, -1.0, 3.0, 5.0, 0.0])}
    assert drift.flips(before, after) == 1 / 4  # the zero had no sign to lose; 1 → 0 lost it without a flip
    assert drift.swaps([1.0, 2.0, 3.0], [1.0, 3.0, 2.0, 0.5]) == (1, 3)
    assert drift.swaps([1.0], [2.0, 3.0]) == (0, 0)
    assert drift.same_sign([before, after]) == 2 / 3


def test_density_and_gained_on_hand_made_masks():
    deltas = [{"w": torch.tensor([1.0, 1.0, -1.0, 0.0])}, {"w": torch.tensor([2.0, -3.0, -1.0, 1.0])}]
    first, both = condu.unify(deltas[:1]), condu.unify(deltas)
    assert reconstruction.density(first.triggers[0]) == 3 / 4
    assert [reconstruction.density(trigger) for trigger in both.triggers] == [2 / 4, 4 / 4]
    assert reconstruction.gained(first.triggers[0], both.triggers[0]) == 0
    assert reconstruction.gained(both.triggers[0], first.triggers[0]) == 1


def test_errors_of_reconstruction_on_hand_made_deltas():
    a = {"v": torch.tensor([3.0]), "w": torch.tensor([4.0])}
    assert reconstruction.cosine(a, {"v": torch.tensor([6.0]), "w": torch.tensor([8.0])}) == pytest.approx(1)
    assert reconstruction.cosine(a, {"v": torch.tensor([-4.0]), "w": torch.tensor([3.0])}) == pytest.approx(0)
    assert reconstruction.cosine(a, {key: value * 0 for key, value in a.items()}) == 0
    half = {"v": torch.tensor([3.0]), "w": torch.tensor([0.0])}
    assert reconstruction.relative_l2(a, half) == pytest.approx(4 / 5)
    assert reconstruction.relative_l2(half, a) == pytest.approx(4 / 3)
    assert math.isinf(reconstruction.relative_l2({"w": torch.zeros(2)}, {"w": torch.ones(2)}))


def test_what_always_holds_is_measured_so():
    deltas, earlier = some_deltas(4), None
    for t, delta in enumerate(deltas):
        unified = condu.extend(earlier, delta) if earlier else condu.unify([delta])
        for i in range(t + 1):
            assert condu.rescaler(condu.decouple(unified, i), deltas[i]) == pytest.approx(1, rel=1e-6)
            assert i == t or reconstruction.gained(earlier.triggers[i], unified.triggers[i]) == 0
        earlier = unified
    assert drift.settle(condu.unify(deltas[:1]), 2) == [0, 0]  # all masks full: a fixed point


def test_cka_of_identical_rotated_and_unrelated_features():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 8, generator=generator)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    assert similarity.cka(x, x) == pytest.approx(1)
    assert similarity.cka(x, 3 * x @ rotation + 1) == pytest.approx(1, abs=1e-5)
    assert similarity.cka(x, torch.randn(400, 8, generator=generator)) < 0.1


@pytest.fixture(scope="module")
def toy():
    """A model with a frozen temperature and a task of the smoke profile."""
    model = models.create(PROFILE.model)
    model.logit_scale.requires_grad_(False)
    return model, experts.dataset(experts.task_config(PROFILE, "digits"))


def test_fisher_is_not_negative_and_zero_where_frozen(toy):
    model, data = toy
    for part in model.visual.conv1.parameters():
        part.requires_grad_(False)
    found = ablations.fisher(model, PROFILE.model, data, batches=2, batch=8)
    for part in model.visual.conv1.parameters():
        part.requires_grad_(True)
    assert found.keys() == {key for key, value in model.state_dict().items() if value.is_floating_point()}
    assert all((x >= 0).all() for x in found.values())
    assert not found["logit_scale"].any() and not found["visual.conv1.weight"].any()
    assert found["visual.proj"].any() and found["text_projection"].any()


def test_fisher_from_mean_gradients_agrees_with_one_image_at_a_time(toy):
    model, data = toy
    together = ablations.fisher(model, PROFILE.model, data, batches=12, batch=8)["visual.ln_post.bias"].sum()
    alone = ablations.fisher(model, PROFILE.model, data, batches=96, batch=1, seed=1)["visual.ln_post.bias"].sum()
    assert 0.4 < together / alone < 2.5  # unbiased, but noisy


def test_ways_of_computing_are_compared_to_the_digit(toy):
    model, data = toy
    one = numerics.logits(model, PROFILE.model, data, numerics.WAYS["fp32"])
    again = numerics.compare(one, one.clone(), data.test_labels)
    assert again["logit_difference"] == again["answers_changed"] == again["accuracy_difference"] == 0
    half = numerics.logits(model, PROFILE.model, data, numerics.WAYS["bf16"])
    assert 0 < numerics.compare(one, half, data.test_labels)["logit_difference"] < 5
    other = one.clone()
    other[0] = -other[0]
    assert numerics.compare(one, other, one.argmax(1))["answers_changed"] == pytest.approx(100 / len(one))
