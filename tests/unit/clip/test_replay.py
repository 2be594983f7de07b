"""Replay batches: shares and counts, which pairs are drawn, validation images left out; tuning is repeatable."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipmerge.clip import adapt, models, replay
from clipmerge.clip.datasets import Dataset
from clipmerge.errors import BadInput

PAPER = (0.33, 0.34, 0.33)


def toy(name, classes, each):
    """A dataset whose images hold their class number in every pixel."""
    labels = torch.arange(classes * each) % classes
    images = labels[:, None, None, None].expand(-1, 32, 32, 3).to(torch.uint8).clone()
    titles = tuple(f"{name} {number}" for number in range(classes))
    empty = torch.zeros(0, dtype=torch.int64)
    return Dataset(name, name, titles, ("a {}", "the {}"), images, labels, images[:0], empty)


TOYS = {"red": toy("Red", 4, 10), "blue": toy("Blue", 3, 10)}


def test_the_papers_mixture():
    assert replay.counts(512, PAPER, has_past=True) == (169, 174, 169)
    assert replay.counts(100, PAPER, has_past=False) == (50, 50, 0)  # the buffer's share goes half and half
    assert replay.counts(64, (0, 1, 0), has_past=True) == replay.counts(64, (0, 1, 0), has_past=False) == (0, 64, 0)
    assert replay.shares((0, 0.5, 0.5), has_past=False) == (0, 1, 0)  # without pretraining data all of it is new


@given(
    mixture=st.tuples(st.floats(0, 1), st.floats(0.2, 1), st.floats(0, 1)),
    batch=st.integers(16, 512),
    has_past=st.booleans(),
)
def test_counts_fill_the_batch(mixture, batch, has_past):
    counts = replay.counts(batch, mixture, has_past)
    assert sum(counts) == batch and min(counts) >= 0 and counts[1] >= 1
    assert has_past or counts[2] == 0
    assert counts[0] == pytest.approx(batch * replay.shares(mixture, has_past)[0], abs=0.5)


@pytest.mark.parametrize("mixture", [(1, 0, 0), (0.5, 0.5), (-0.1, 1, 0.1), (1000, 1, 0)])
def test_what_is_no_mixture_is_refused(mixture):
    with pytest.raises(BadInput, match="mixture: expected"):
        replay.counts(16, mixture, has_past=True)


def test_a_source_gives_its_classes_alone_and_all_of_them():
    origin = replay.source(TOYS, {"blue": [2], "red": [0, 3]})
    assert len(origin.where) == 30
    batch = replay.draw(origin, 200, 1.0, torch.Generator().manual_seed(0))
    assert set(batch.names) == {"blue 2", "red 0", "red 3"}
    assert all(name in caption.lower() for name, caption in zip(batch.names, batch.captions, strict=True))
    assert {caption.split()[0] for caption in batch.captions} == {"a", "the"}
    assert [int(name[-1]) for name in batch.names] == batch.images[:, 0, 0, 0].tolist()


def test_a_dataset_that_is_not_there_is_named():
    with pytest.raises(BadInput, match="found none of green"):
        replay.source(TOYS, {"green": [0], "red": [1]})


def losses(batch, steps=3, seed=0, task=0):
    """Loss by step of a fresh model, which must come back in evaluation mode with another temperature."""
    model = models.create("nano-xs")
    temperature = model.logit_scale.item()
    log = adapt.adapt(model, "nano-xs", batch, adapt.Recipe(steps=steps, batch=8, lr=3e-4), seed, task)
    assert model.logit_scale.item() != temperature and not model.training
    return [row["loss"] for row in log]


def test_tuning_depends_on_seed_and_task_alone():
    origin = replay.source(TOYS, {"red": [0, 3], "blue": [1]})
    draw = lambda generator: replay.draw(origin, 8, 1.0, generator)  # noqa: E731
    assert losses(draw) == losses(draw)
    assert len({tuple(losses(draw, 2, seed, task)) for seed in (0, 1) for task in (0, 1)}) == 4


def test_tuning_learns_a_batch_by_heart():
    fixed = replay.draw(replay.source(TOYS, {"red": [0, 3], "blue": [1]}), 8, 1.0, torch.Generator().manual_seed(0))
    first, *_, last = losses(lambda _: fixed, steps=8)
    assert last < first


def test_pretraining_pairs_come_from_the_pool():
    batch = replay.pretraining(6, torch.Generator().manual_seed(0))
    assert batch.images.shape == (6, 3, 32, 32) and batch.images.dtype == torch.uint8
    assert len(batch.captions) == len(batch.names) == 6
