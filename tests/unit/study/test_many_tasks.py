"""Cutting classes into small tasks: each class once, every seed the same way again, sizes as asked."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipmerge.clip.datasets import Dataset
from clipmerge.errors import BadInput
from clipmerge.study import profiles
from clipmerge.study.condu import many_tasks, many_tasks_steps

SIZES = {"animals": 10, "barcodes": 14, "flags": 250, "solarcells": 4}


@given(st.integers(4, 40), st.integers(2, 5), st.integers(0, 5))
def test_every_class_is_in_exactly_one_task(count, smallest, seed):
    tasks = many_tasks.cut(SIZES, count, smallest, seed)
    assert len(tasks) == len({task.name for task in tasks}) == count
    for dataset, size in SIZES.items():
        classes = [c for task in tasks if task.dataset == dataset for c in task.classes]
        assert sorted(classes) == list(range(size))
    assert min(len(task.classes) for task in tasks) >= min(smallest, min(SIZES.values()))


def test_a_seed_decides_classes_and_order():
    assert many_tasks.cut(SIZES, 20, 4, seed=1) == many_tasks.cut(SIZES, 20, 4, seed=1)
    one, other = many_tasks.cut(SIZES, 20, 4, seed=1), many_tasks.cut(SIZES, 20, 4, seed=2)
    assert [task.name for task in one] != [task.name for task in other]
    assert {task.classes for task in one} != {task.classes for task in other}


def test_pieces_are_dealt_out_in_turn():
    assert many_tasks.shares({"a": 8, "b": 100, "c": 100}, 8, 4) == {"a": 2, "b": 3, "c": 3}


def test_too_many_or_too_few_tasks_are_refused():
    with pytest.raises(BadInput, match="at most 6 tasks of 4"):
        many_tasks.cut({"a": 10, "b": 16}, 7, 4, seed=0)
    with pytest.raises(BadInput, match="at least 2"):
        many_tasks.cut({"a": 10, "b": 16}, 1, 4, seed=0)


def test_narrow_keeps_the_images_of_its_classes_under_new_labels():
    images, labels = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 32, 32, 3), torch.arange(6) % 3
    whole = Dataset("abc", "ABC", ("a", "b", "c"), ("{}",), images, labels, images[:3], labels[:3])
    part = many_tasks_steps.narrow(whole, "abc-1", (2, 0))
    assert part.name == "abc-1" and part.classes == ("c", "a")
    assert part.train_images[:, 0, 0, 0].tolist() == [0, 2, 3, 5] and part.train_labels.tolist() == [1, 0, 1, 0]
    assert part.test_labels.tolist() == [1, 0]


@pytest.mark.parametrize("name", ["smoke", "laptop"])
def test_profiles_ask_for_tasks_that_can_be_cut(name):
    profile = profiles.load(name)
    tasks = many_tasks.tasks(profile, seed=0)
    assert len(tasks) == profile.many.count == profile.many.marks[-1]
    assert sum(len(task.classes) for task in tasks) > 600
    assert all(len(task.classes) >= profile.many.smallest for task in tasks)
