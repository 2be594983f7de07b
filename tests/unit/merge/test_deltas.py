import pytest
import torch
from hypothesis import given

from clipmerge.errors import BadInput
from clipmerge.merge import apply_delta, check_compatible, delta

from .merge_states import few, model, same, seeds


def test_delta_and_back_by_hand():
    base = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor([3])}
    expert = {"w": torch.tensor([1.5, 0.0]), "n": torch.tensor([3])}
    change = delta(expert, base)
    assert list(change) == ["w"] and change["w"].tolist() == [0.5, -2.0]
    assert apply_delta(base, change, scale=2.0)["w"].tolist() == [2.0, -2.0]
    assert apply_delta(base, change)["n"] is base["n"]


@few
@given(seeds)
def test_zero_delta_is_the_base(seed):
    base = model(seed)
    assert same(apply_delta(base, delta(base, base)), base)


def test_deltas_of_half_precision_models_are_fp32():
    base, expert = model(0, dtype=torch.bfloat16), model(1, dtype=torch.bfloat16)
    change = delta(expert, base)
    assert {x.dtype for x in change.values()} == {torch.float32}
    assert apply_delta(base, change)["c"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: s.pop("c"), "missing c; unexpected nothing"),
        (lambda s: s.update(extra=torch.ones(1)), "missing nothing; unexpected extra"),
        (lambda s: s.update(c=torch.ones(3)), r"c is \[3\] float32, not \[17\] float32"),
        (lambda s: s.update(c=s["c"].half()), r"c is \[17\] float16, not \[17\] float32"),
        (lambda s: s.update(positions=torch.arange(5) + 1), "positions .* not merged"),
        (lambda s: s["d"].view(-1)[3:4].fill_(float("nan")), "d should hold finite numbers"),
        (lambda s: s["d"].view(-1)[3:4].fill_(float("inf")), "d should hold finite numbers"),
    ],
)
def test_bad_experts_are_named(spoil, words):
    base, expert = model(0), model(1)
    spoil(expert)
    with pytest.raises(BadInput, match=f"^birds: .*{words}"):
        delta(expert, base, label="birds")


def test_at_most_ten_keys_are_listed():
    base = {f"k{i:02}": torch.ones(1) for i in range(15)}
    with pytest.raises(BadInput, match="k09 and 5 more; unexpected nothing"):
        check_compatible(base, [{}])


def test_a_delta_must_fit_the_base():
    with pytest.raises(BadInput, match="c: the delta has shape"):
        apply_delta(model(0), {"c": torch.ones(3)})
    with pytest.raises(BadInput, match="z: .* no such tensor"):
        apply_delta(model(0), {"z": torch.ones(3)})


def test_exotic_dtypes_are_refused():
    state = {"w": torch.ones(2, dtype=torch.complex64)}
    with pytest.raises(BadInput, match="w is complex64"):
        check_compatible(state, [state])
