"""The rule with a radius: weights by hand, and images that no expert knows left to the base."""

import math

import pytest
import torch

from clipmerge.study.condu import features, panel, voting
from clipmerge.study.routing import radius

ONE = torch.eye(2)
SEEN = {
    "train.a": torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]]),  # similar to (1, 0): 1, 0.8, 0.6
    "train.b": torch.tensor([[0.0, 1.0], [0.0, 1.0]]),
}


def test_a_radius_is_a_quantile_of_a_tasks_own_training_images():
    prototypes = [ONE[:1], ONE[1:]]
    assert features.radii(SEEN, ["a", "b"], prototypes, 0.0).tolist() == pytest.approx([0.6, 1.0])
    assert features.radii(SEEN, ["a", "b"], prototypes, 0.5).tolist() == pytest.approx([0.8, 1.0])
    assert features.radii(SEEN, ["a", "b"], prototypes, 0.25).tolist() == pytest.approx([0.7, 1.0])


def test_weights_by_hand():
    found = voting.fenced(torch.tensor([[0.1, -0.1], [0.0, 0.0]]), 0.1)
    e = math.e
    total = 1 + e + 1 / e
    torch.testing.assert_close(found, torch.tensor([[1 / total, e / total, 1 / (e * total)], [1 / 3, 1 / 3, 1 / 3]]))


def test_what_is_near_to_nothing_is_the_bases():
    far, near = voting.fenced(torch.tensor([[-0.9, -0.5], [0.9, -0.5]]), 0.02)
    assert far[0] > 0.999 and near[1] > 0.999


def view(right):
    """A member that sees the two images of task a and the one of task b, and is right about those in `right`."""
    heads = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    z = {"a": torch.tensor([0, 1]), "b": torch.tensor([1])}
    flipped = {task: truth if task in right else 1 - truth for task, truth in z.items()}
    return {f"z.{u}": heads[v] for u, v in flipped.items()} | {f"head.{u}": heads for u in z}


def test_last_and_transfer_of_a_panel_by_hand():
    labels = {"a": torch.tensor([0, 1]), "b": torch.tensor([1])}
    given = panel.Panel(("a", "b"), (view("b"), view("a"), view("")), labels)
    near = {"a": torch.tensor([[0.5, -0.5], [-0.5, -0.5]]), "b": torch.tensor([[-0.5, -0.5]])}
    last = radius.last(given, near, 0.02)
    own = last[last.space == "own"].set_index("task").value
    assert own.to_dict() == {"a": 50.0, "b": 100.0}  # a's expert answers one image, the base the rest
    transfer = radius.transfer(given, near, 0.02)
    assert transfer.set_index("task").value.to_dict() == {"b": 100.0}  # b is unseen once, and nobody's
    assert transfer.n.tolist() == [1]
