"""Weights, votes and label spaces: three images and two experts by hand, then what must hold for any scores."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipmerge.errors import BadInput
from clipmerge.study.condu import voting

SCORES = torch.tensor([[0.8, 0.4], [0.2, 0.6], [0.5, 0.5]])
# members × classes for each of three images: the base, expert 0, expert 1
LOGITS = torch.tensor(
    [
        [[4.0, 0.0, 0.0], [0.0, 6.0, 0.0], [0.0, 0.0, 5.0]],
        [[4.0, 0.0, 0.0], [0.0, 6.0, 0.0], [0.0, 0.0, 5.0]],
        [[1.0, 0.0, 0.0], [0.0, 0.0, 3.0], [0.0, 2.0, 0.0]],
    ]
)


def answers(weights):
    return (weights[:, None] @ LOGITS)[:, 0]


def test_plain_mean_of_the_base_and_the_nearest():
    weights = voting.weights(SCORES[:2], 1)
    assert weights.tolist() == [[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]]
    assert (weights[:, None] @ LOGITS[:2])[:, 0].tolist() == [[2.0, 3.0, 0.0], [2.0, 0.0, 2.5]]


def test_similarity_weights_by_hand():
    weights = voting.weights(SCORES, 2, kind="similarity")
    # the base counts as much as the nearest expert: 0.8 : 0.8 : 0.4, then 0.6 : 0.2 : 0.6, then 1 : 1 : 1
    golden = torch.tensor([[0.4, 0.4, 0.2], [3 / 7, 1 / 7, 3 / 7], [1 / 3, 1 / 3, 1 / 3]])
    torch.testing.assert_close(weights, golden)
    torch.testing.assert_close(answers(weights)[0], torch.tensor([1.6, 2.4, 1.0]))


def test_softmax_weights_by_hand():
    weights = voting.weights(SCORES[:1], 2, base=False, kind="softmax", tau=0.4)
    e = math.e  # 0.8 and 0.4 are one τ apart: shares e : 1
    torch.testing.assert_close(weights, torch.tensor([[0.0, e / (e + 1), 1 / (e + 1)]]))


def test_no_expert_is_zero_shot():
    for kind in voting.KINDS:
        assert torch.equal(answers(voting.weights(SCORES, 0, kind=kind)), LOGITS[:, 0])


def test_the_mean_vote_is_the_mean_of_base_and_chosen_experts():
    golden = torch.stack([(LOGITS[0, 0] + LOGITS[0, 1]) / 2, (LOGITS[1, 0] + LOGITS[1, 2]) / 2])
    torch.testing.assert_close(answers(voting.weights(SCORES, 1))[:2], golden)


def test_a_known_task_is_answered_by_its_own_expert():
    assert voting.own(1, 2, 3).tolist() == [[0.0, 0.0, 1.0]] * 3
    assert torch.equal(answers(voting.own(1, 2, 3)), LOGITS[:, 2])


@pytest.mark.parametrize(
    "bad", [{"k": -1}, {"k": 0, "base": False}, {"k": 1, "kind": "median"}, {"k": 1, "kind": "softmax", "tau": 0.0}]
)
def test_bad_rules_are_refused(bad):
    with pytest.raises(BadInput, match="expected"):
        voting.weights(SCORES, **bad)


def test_later_experts_have_no_weight():
    early = voting.only(voting.weights(SCORES[:, :1], 4), 3)
    assert early.tolist() == [[0.5, 0.5, 0.0, 0.0]] * 3


@st.composite
def cases(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    n, tasks = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    sizes = [draw(st.integers(1, 4)) for _ in range(tasks)]
    scores = torch.rand(n, tasks, generator=generator) * 2 - 1
    return generator, scores, sizes, draw(st.integers(1, 5)), draw(st.booleans()), draw(st.sampled_from(voting.KINDS))


@given(cases())
def test_weights_are_shares_of_at_most_k_members(case):
    _, scores, _, k, base, kind = case
    weights = voting.weights(scores, k, base=base, kind=kind, tau=0.1)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(len(scores)))
    assert ((weights[:, 1:] > 0).sum(1) <= k).all()
    assert bool((weights[:, 0] > 0).all()) == base
    assert (weights[:, 1:].gather(1, scores.argmax(1, keepdim=True)) > 0).all()  # the nearest always answers


@given(cases())
def test_leaving_out_wrong_labels_never_hurts(case):
    generator, scores, sizes, *_ = case
    owner, n = voting.owners(sizes), len(scores)
    logits = torch.randn(n, len(owner), generator=generator)
    for task, size in enumerate(sizes):
        labels = torch.randint(size, (n,), generator=generator)
        right = {
            space: voting.hits(logits, labels, owner, task, voting.allowed(owner, task, 1, space))
            for space in voting.SPACES
        }
        assert (right["own"] >= right["seen"]).all()
        assert (right["seen"] >= right["union"]).all()


def test_label_spaces_by_hand():
    owner = voting.owners([2, 1, 2])
    assert owner.tolist() == [0, 0, 1, 2, 2]
    found = {space: voting.allowed(owner, 2, 1, space).int().tolist() for space in voting.SPACES}
    assert found == {"own": [0, 0, 0, 1, 1], "seen": [1, 1, 0, 1, 1], "union": [1, 1, 1, 1, 1]}
    with pytest.raises(BadInput, match="label space"):
        voting.allowed(owner, 2, 1, "all")
    # best of all classes is column 2 (task 1); of those allowed, column 4 (class 1 of task 2)
    logits = torch.tensor([[1.0, 0.0, 9.0, 2.0, 3.0]])
    within = [voting.allowed(owner, 2, 1, space) for space in voting.SPACES]
    right = [bool(voting.hits(logits, torch.tensor([1]), owner, 2, each)) for each in within]
    assert right == [True, True, False]
