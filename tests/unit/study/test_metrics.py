"""Metrics against published matrices, against hand-made ones, and as algebra."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clipmerge.errors import BadInput
from clipmerge.study import metrics, results

HALF_A_DIGIT = 0.05 + 1e-9
BY_HAND = [[50.0, 20.0, 30.0], [40.0, 60.0, 10.0], [30.0, 50.0, 70.0]]
SQUARES = st.integers(2, 6).flatmap(lambda n: arrays(np.float64, (n, n), elements=st.floats(0, 100)))


def test_by_hand():
    assert np.array_equal(metrics.transfer_by_task(BY_HAND), [np.nan, 20, 20], equal_nan=True)
    assert metrics.average_by_task(BY_HAND).tolist() == pytest.approx([40, 130 / 3, 110 / 3])
    assert metrics.last_by_task(BY_HAND).tolist() == [30, 50, 70]
    assert (metrics.transfer(BY_HAND), metrics.average(BY_HAND), metrics.last(BY_HAND)) == (20, 40, 50)


def test_numpy_torch_and_lists_agree():
    assert metrics.transfer(np.array(BY_HAND)) == metrics.transfer(torch.tensor(BY_HAND)) == metrics.transfer(BY_HAND)


@pytest.mark.parametrize("method", ["continual-ft", "lwf", "icarl", "lwf-vr", "wise-ft", "zscl*", "zscl"])
@pytest.mark.parametrize("metric", ["transfer", "average", "last"])
def test_published_matrix_gives_the_published_numbers(method, metric):
    matrix = results.matrices()[method]
    ours = results.mtil_rows(matrix, results.matrix_tasks(), method=method, seed=None).query("metric == @metric")
    reported = results.reported("MTIL Order I", metric)
    printed = reported[(reported.method == method) & reported.source.str.startswith("ZSCL repository")]
    both = ours.merge(printed, on="task", suffixes=("_ours", "_reported"))
    assert len(both) == (11 if metric == "transfer" else 12)
    assert (both.value_ours - both.value_reported).abs().max() <= HALF_A_DIGIT


def test_zero_shot_transfer_leaves_out_the_first_task():
    """A model that never changes: every row is the zero-shot row of Order I."""
    reported = results.reported("MTIL Order I", "last")
    zero_shot = reported[(reported.method == "zero-shot") & reported.source.str.startswith("ZSCL repository")]
    row = zero_shot.set_index("task").value[list(results.matrix_tasks())].to_numpy()
    matrix = np.tile(row, (11, 1))
    assert round(metrics.transfer(matrix), 1) == 69.4
    assert round(metrics.average(matrix), 1) == round(metrics.last(matrix), 1) == 65.3


def test_fomo_zero_shot_table_gives_its_own_summary():
    """OpenCLIP ViT-B/32: A_KA 38.5, A_ZS 67.9, geometric mean 51.1 (methods of FoMo-in-Flux and TIME)."""
    table = results.reported("zero-shot OpenCLIP ViT-B/32 (laion2b_s34b_b79k)").set_index("task").value
    heldout = [
        "caltech101", "caltech256", "cars196", "cifar10", "domainnet_quickdraw", "eurosat", "fashionmnist",
        "food101", "gtsrb", "imagenet", "imagenet_a", "imagenet_d", "imagenet_r", "imagenet_s",
        "imagenet_v2", "mnist", "monkeys10", "oxford_pets", "stl10", "svhn", "mscoco", "flickr30k",
    ]  # fmt: skip
    accumulated = metrics.knowledge_accumulation(table.drop(heldout))
    retained = metrics.zero_shot_retention(table[heldout])
    assert (len(table.drop(heldout)), len(heldout)) == (41, 22)
    assert (round(accumulated, 1), round(retained, 1)) == (38.5, 67.9)
    assert round(metrics.geometric_mean(accumulated, retained), 1) == 51.1


@given(SQUARES)
def test_average_is_the_mean_of_the_whole_matrix(matrix):
    assert metrics.average(matrix) == pytest.approx(matrix.mean())


@given(SQUARES)
def test_transfer_sees_only_what_lies_above_the_diagonal(matrix):
    above = np.triu(matrix, k=1)
    assert metrics.transfer(matrix) == metrics.transfer(above)


@given(SQUARES, st.floats(-20, 20))
def test_a_constant_gain_is_a_gain_in_every_metric(matrix, gain):
    for metric in (metrics.transfer, metrics.average, metrics.last):
        assert metric(matrix + gain) == pytest.approx(metric(matrix) + gain, abs=1e-9)


@given(st.floats(0, 100), st.floats(0, 100))
def test_geometric_mean_lies_between(accumulated, retained):
    mean = metrics.geometric_mean(accumulated, retained)
    assert min(accumulated, retained) - 1e-9 <= mean <= max(accumulated, retained) + 1e-9


def test_last_is_a_copy():
    matrix = np.array(BY_HAND)
    metrics.last_by_task(matrix)[0] = 0
    assert matrix[-1, 0] == 30


def test_one_task_has_no_transfer():
    assert math.isnan(metrics.transfer([[80.0]]))
    assert metrics.last([[80.0]]) == 80


@pytest.mark.parametrize("matrix", [[1.0, 2.0], [[1.0, 2.0]], np.zeros((0, 0))])
def test_shape_is_named(matrix):
    with pytest.raises(BadInput, match=r"expected a square .* found shape \["):
        metrics.average(matrix)


def test_no_sets_no_mean():
    with pytest.raises(BadInput, match="knowledge accumulation: expected at least one"):
        metrics.knowledge_accumulation([])
