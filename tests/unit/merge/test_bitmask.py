import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipmerge.errors import BadInput
from clipmerge.merge.bitmask import PackedMask, pack

from .merge_states import few


@few
@given(st.lists(st.booleans(), max_size=70))
def test_round_trip_at_every_length(values):
    mask = torch.tensor(values, dtype=torch.bool)
    packed = pack(mask)
    assert packed.bits.numel() == (len(values) + 7) // 8
    assert torch.equal(packed.unpack(), mask)
    assert packed.density() == pytest.approx(sum(values) / max(len(values), 1))


def test_shape_is_kept_and_the_first_element_is_the_highest_bit():
    mask = torch.zeros(3, 3, dtype=torch.bool)
    mask[0, 0] = mask[2, 2] = True
    packed = pack(mask)
    assert packed.bits.tolist() == [128, 128]
    assert torch.equal(packed.unpack(), mask)


def test_a_scalar_and_an_empty_mask():
    assert pack(torch.tensor(True)).unpack().item() is True
    assert pack(torch.zeros(0, 4, dtype=torch.bool)).unpack().shape == (0, 4)


def test_wrong_dtype_and_wrong_length_are_refused():
    with pytest.raises(BadInput, match="boolean"):
        pack(torch.ones(3))
    with pytest.raises(BadInput, match=r"uint8\[2\]"):
        PackedMask(torch.zeros(1, dtype=torch.uint8), (9,))
