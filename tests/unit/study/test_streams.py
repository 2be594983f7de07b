"""Streams: every pair once in equal chunks, whatever the order; the orders are what they say."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipmerge.errors import BadInput
from clipmerge.study import profiles
from clipmerge.study.time import streams

PROFILE = profiles.load("smoke")
EVERY = streams.pairs(PROFILE.temporal.adaptation)


@given(order=st.sampled_from(["random", "dataset"]), seed=st.integers(0, 10**6), tasks=st.integers(1, len(EVERY)))
def test_every_pair_is_in_one_chunk_and_chunks_are_equal(order, seed, tasks):
    stream = streams.make(PROFILE, order, seed, tasks)
    flat = [pair for chunk in stream.chunks for pair in chunk]
    sizes = [len(chunk) for chunk in stream.chunks]
    assert sorted(flat) == sorted(EVERY) and len(sizes) == tasks and max(sizes) - min(sizes) <= 1
    assert stream == streams.make(PROFILE, order, seed, tasks)


def test_seeds_shuffle_and_the_profile_says_how_many_tasks():
    first, second = (streams.make(PROFILE, seed=seed) for seed in (0, 1))
    assert first.chunks != second.chunks and len(first.chunks) == PROFILE.temporal.tasks


def test_dataset_order_finishes_a_dataset_before_the_next():
    flat = [name for chunk in streams.make(PROFILE, "dataset", 3).chunks for name, _ in chunk]
    changes = sum(a != b for a, b in zip(flat, flat[1:], strict=False))
    assert changes == len(PROFILE.temporal.adaptation) - 1


def test_similarity_is_a_permutation_whose_neighbours_are_closer_than_by_chance():
    walked = [pair for chunk in streams.make(PROFILE, "similarity").chunks for pair in chunk]
    shuffled = [pair for chunk in streams.make(PROFILE, "random").chunks for pair in chunk]
    assert sorted(walked) == sorted(EVERY) and walked[0] == shuffled[0]

    def closeness(path):
        z = streams.texts(PROFILE, path)
        return (z[1:] * z[:-1]).sum(1).mean().item()

    assert closeness(walked) > closeness(shuffled) + 0.1


def test_a_walk_by_hand():
    angles = torch.tensor([0.0, 3.0, 0.1, 2.0, 0.3])
    features = torch.stack([angles.cos(), angles.sin()], 1)
    assert streams.walk([("x", i) for i in range(5)], features) == [("x", i) for i in (0, 2, 4, 3, 1)]


def test_classes_by_dataset():
    assert streams.by_dataset([("b", 2), ("a", 1), ("b", 0)]) == {"a": [1], "b": [0, 2]}


@pytest.mark.parametrize(("order", "tasks", "what"), [("alphabetic", 3, "order"), ("random", 0, "tasks")])
def test_what_is_no_stream_is_refused(order, tasks, what):
    with pytest.raises(BadInput, match=f"{what}: expected"):
        streams.make(PROFILE, order, tasks=tasks)
