"""Codes of masks: golden entropies, run lengths that come back; leaner triggers keep what they promise."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipmerge.errors import BadInput
from clipmerge.merge import condu
from clipmerge.study.analysis import mask_coding, mask_compression


@pytest.fixture(scope="module")
def unified():
    """Four random tasks, the last two almost the same."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda: {"w": torch.randn(8, 12, generator=generator), "g": torch.randn(10, generator=generator)}  # noqa: E731
    tasks = [draw() for _ in range(3)]
    twin = {key: value + 0.01 * draw()[key] for key, value in tasks[-1].items()}
    return condu.unify([*tasks, twin])


def test_entropy_golden():
    assert mask_coding.entropy(0.5) == 1 and mask_coding.entropy(0) == mask_coding.entropy(1) == 0
    assert mask_coding.entropy(0.25) == pytest.approx(0.8112781244591328)
    with pytest.raises(BadInput, match="between 0 and 1"):
        mask_coding.entropy(1.5)


def test_knowing_groups_never_costs_bits():
    ones, sizes = np.array([0, 30, 9]), np.array([10, 40, 10])
    expected = (40 * mask_coding.entropy(0.75) + 10 * mask_coding.entropy(0.9)) / 60
    assert mask_coding.split_entropy(ones, sizes) == pytest.approx(expected)
    assert expected < mask_coding.entropy(39 / 60)


def test_joint_entropy_of_equal_masks_is_shared():
    mask = np.arange(400) % 2 == 0
    assert mask_coding.joint_entropy(np.stack([mask] * 10)) == pytest.approx(1 / 10)
    independent = np.stack([mask, np.arange(400) // 2 % 2 == 0])
    assert mask_coding.joint_entropy(independent) == pytest.approx(1)


def decoded(code, count):
    """The bool[count] mask that `run_length` has written."""
    lengths, value, shift = [], 0, 0
    for byte in code:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            lengths.append(value)
            value = shift = 0
    assert sum(lengths) == count
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40_000)), max_size=8))
def test_run_lengths_come_back(parts):
    mask = np.concatenate([np.zeros(0, bool), *(np.full(count, bit) for bit, count in parts)])
    assert mask_coding.runs(mask).sum() == len(mask)
    code = mask_coding.run_length(mask)
    assert np.array_equal(decoded(code, len(mask)), mask)
    assert len(code) <= 2 + 3 * len(parts)


@given(st.lists(st.booleans(), max_size=300))
def test_run_lengths_of_any_bits_come_back(bits):
    mask = np.array(bits, dtype=bool)
    assert np.array_equal(decoded(mask_coding.run_length(mask), len(mask)), mask)


def test_run_lengths_golden():
    mask = np.array([True] * 2 + [False] * 300)
    assert mask_coding.runs(mask).tolist() == [0, 2, 300]
    assert mask_coding.run_length(mask) == bytes([0, 2, 0b10101100, 0b10])


@pytest.mark.parametrize(("kind", "value"), [("keep", 1.0), ("share", 4)])
def test_a_smaller_trigger_that_gives_up_nothing_is_the_trigger(unified, kind, value):
    bank = mask_compression.compress(unified, kind, value)
    for i in range(4):
        for key, expected in condu.decouple(unified, i).items():
            assert bank.delta(i)[key] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("kind", "value"), [("keep", 0.3), ("share", 2), ("row bit", 0), ("tensor bit", 0)])
def test_masked_kinds_keep_the_magnitude(unified, kind, value):
    bank = mask_compression.compress(unified, kind, value)
    for i in range(4):
        assert condu.rescaler(condu.decouple(unified, i), bank.delta(i)) == pytest.approx(1, rel=1e-5)


def test_keep_bytes_and_support(unified):
    bank = mask_compression.keep(unified, 0.25)
    kept = torch.cat([u.abs().flatten() for u in unified.delta.values()]).topk(26).values[-1]  # of 106
    assert bank.bytes_per_task == 4 + 4  # 26 bits, λ
    for key, change in bank.delta(0).items():
        assert not change[unified.delta[key].abs() < kept].any()


def test_similar_tasks_share_a_mask_and_its_bytes(unified):
    bank = mask_compression.share(unified, 3)
    assert bank.bytes_per_task == 3 * (12 + 2) / 4 + 4
    supports = [torch.cat([x.flatten() != 0 for x in bank.delta(i).values()]) for i in range(4)]
    assert torch.equal(supports[2], supports[3]) and not torch.equal(supports[0], supports[1])


def test_one_gain_a_row_is_the_nearest_there_is(unified):
    bank = mask_compression.compress(unified, "row gain")
    target, found, u = condu.decouple(unified, 0)["w"], bank.delta(0)["w"], unified.delta["w"]
    assert bank.bytes_per_task == 4 * (8 + 1)
    best = (target * u).sum(1, keepdim=True) / u.square().sum(1, keepdim=True) * u
    assert found == pytest.approx(best, rel=1e-5)
    with pytest.raises(BadInput, match="expected one of keep"):
        mask_compression.compress(unified, "smaller")
