import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipmerge.errors import BadInput
from clipmerge.merge import condu
from clipmerge.merge.pieces import BLOCK

from .merge_states import SHAPES, counts, deltas, few, same, seeds

kinds = st.sampled_from(["tensor_mean", "global_l1"])


def one(*values):
    return {"w": torch.tensor(values)}


def magnitude(delta, kind):
    return sum(x.abs().double().mean() if kind == "tensor_mean" else x.abs().double().sum() for x in delta.values())


def by_the_equations(many, kind):
    """Unify as the paper writes it, on whole tensors."""
    u = {n: condu.elect(torch.stack([d[n] for d in many])) for n in many[0]}
    masks = [{n: condu.agree(d[n], u[n]) for n in d} for d in many]
    scales = [condu.rescaler(d, {n: m[n] * u[n] for n in u}, kind) for d, m in zip(many, masks, strict=True)]
    return u, masks, scales


def test_by_hand():
    u = condu.unify([one(3.0, -1.0, 0.0, 1.0), one(1.0, 4.0, -2.0, -1.0)])
    assert u.delta["w"].tolist() == [3.0, 4.0, -2.0, -1.0]  # the last sum is zero: it elects −1
    first, second = u.triggers
    assert first.mask["w"].unpack().tolist() == [True, False, False, False]
    assert second.mask["w"].unpack().tolist() == [True, True, True, True]
    assert first.rescaler == 5 / 3 and second.rescaler == 8 / 10
    assert condu.decouple(u, "0")["w"].tolist() == [5.0, 0.0, 0.0, 0.0]
    torch.testing.assert_close(condu.decouple(u, 1)["w"], torch.tensor([2.4, 3.2, -1.6, -0.8]))


def test_second_session_by_hand():
    u = condu.extend(condu.unify([one(2.0, 2.0)]), one(-4.0, 1.0))
    assert u.delta["w"].tolist() == [-4.0, 2.0]
    assert [t.mask["w"].unpack().tolist() for t in u.triggers] == [[False, True], [True, True]]
    assert [t.rescaler for t in u.triggers] == [2.0, 5 / 6]


def test_the_two_rescalers_differ_where_tensor_sizes_do():
    many = [
        {"a": torch.tensor([1.0, 1.0, 1.0]), "b": torch.tensor([2.0])},
        {"a": torch.zeros(3), "b": torch.tensor([4.0])},
    ]
    mean, total = condu.unify(many), condu.unify(many, rescaler="global_l1")
    assert mean.triggers[0].rescaler == (1 + 2) / (1 + 4)
    assert total.triggers[0].rescaler == (3 + 2) / (3 + 4)
    assert condu.unify(many, rescaler="none").triggers[0].rescaler == 1.0


@few
@given(seeds, counts, kinds)
def test_blocks_equal_the_equations_bit_for_bit(seed, count, kind):
    many = deltas(seed, count)
    u, masks, scales = by_the_equations(many, kind)
    unified = condu.unify(many, kind)
    assert same(unified.delta, u)
    for trigger, mask, scale in zip(unified.triggers, masks, scales, strict=True):
        assert same({n: m.unpack() for n, m in trigger.mask.items()}, mask)
        assert trigger.rescaler == scale


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, 2 * BLOCK + 13])
def test_tensors_of_several_blocks(size):
    generator = torch.Generator().manual_seed(size)
    many = [{"w": torch.randn(size, generator=generator)} for _ in range(3)]
    u, masks, scales = by_the_equations(many, "tensor_mean")
    unified = condu.unify(many)
    assert same(unified.delta, u)
    assert torch.equal(unified.triggers[2].mask["w"].unpack(), masks[2]["w"])
    assert [t.rescaler for t in unified.triggers] == scales
    torch.testing.assert_close(condu.norms(many[0])["w"], many[0]["w"].abs().double().sum().item())


@few
@given(seeds, counts, kinds, st.sampled_from([0.0, 1.0]))
def test_magnitude_is_invariant_over_all_sessions(seed, count, kind, shared):
    many = deltas(seed, count, shared)
    unified = condu.unify(many[:1], kind)
    for newcomer in many[1:]:
        unified = condu.extend(unified, newcomer)
    for task, original in enumerate(many):
        if unified.triggers[task].rescaler:  # 0 if nothing of the task survived
            assert math.isclose(magnitude(condu.decouple(unified, task), kind), magnitude(original, kind), rel_tol=1e-5)


@few
@given(seeds, counts)
def test_masks_only_shrink(seed, count):
    many = deltas(seed, count)
    before = condu.unify(many[:1])
    for newcomer in many[1:]:
        after = condu.extend(before, newcomer)
        for old, new in zip(before.triggers, after.triggers, strict=False):
            assert all((new.mask[n].unpack() <= old.mask[n].unpack()).all() for n in SHAPES)
        before = after


@few
@given(seeds)
def test_first_session_is_lossless(seed):
    (only,) = deltas(seed, 1)
    unified = condu.unify([only])
    assert unified.triggers[0].rescaler == 1.0
    assert same(unified.delta, only) and same(condu.decouple(unified, 0), only)


def test_decoupling_right_after_unifying_loses_something():
    many = deltas(3, 3)
    assert not torch.allclose(condu.decouple(condu.unify(many), 0)["c"], many[0]["c"])


@few
@given(seeds, counts, st.randoms(use_true_random=False))
def test_one_call_does_not_care_for_order(seed, count, random):
    many = deltas(seed, count)
    order = random.sample(range(count), count)
    straight, mixed = condu.unify(many), condu.unify([many[k] for k in order])
    assert same(straight.delta, mixed.delta)
    assert [straight.triggers[k].rescaler for k in order] == [t.rescaler for t in mixed.triggers]


def test_the_recursion_does_care_for_order():
    a, b, c = deltas(1, 3)
    forward = condu.extend(condu.extend(condu.unify([a]), b), c)
    backward = condu.extend(condu.extend(condu.unify([c]), b), a)
    assert not same(forward.delta, backward.delta)


@few
@given(seeds, counts, st.sampled_from([0.25, 2.0, 8.0]))
def test_scaling_the_deltas_scales_the_result(seed, count, factor):
    many = deltas(seed, count)
    scaled = condu.unify([{n: factor * x for n, x in d.items()} for d in many])
    unified = condu.unify(many)
    assert same(scaled.delta, {n: factor * x for n, x in unified.delta.items()})
    assert [t.rescaler for t in scaled.triggers] == pytest.approx([t.rescaler for t in unified.triggers])


@few
@given(seeds, counts)
def test_full_masks_are_a_fixed_point(seed, count):
    many = [
        {"w": (k + 1.0) * torch.rand(9, generator=torch.Generator().manual_seed(seed + k)) + 1e-3} for k in range(count)
    ]
    unified = condu.unify(many)
    again = condu.unify([condu.decouple(unified, k) for k in range(count)])
    strongest = max(t.rescaler for t in unified.triggers)
    assert [t.rescaler for t in again.triggers] == pytest.approx(
        [t.rescaler / strongest for t in unified.triggers], rel=1e-5
    )


def test_reunifying_is_nearly_but_not_quite_idempotent():
    unified = condu.unify(deltas(2, 5))
    again = condu.unify([condu.decouple(unified, k) for k in range(5)])
    drift = torch.norm(again.delta["c"] - unified.delta["c"]) / torch.norm(unified.delta["c"])
    assert 0 < drift < 0.5


def test_extend_is_unify_of_the_reconstructions():
    many = deltas(4, 4)
    unified = condu.unify(many[:3])
    whole = condu.unify([*(condu.decouple(unified, k) for k in range(3)), many[3]])
    extended = condu.extend(unified, many[3])
    assert same(extended.delta, whole.delta)
    assert [t.rescaler for t in extended.triggers] == [t.rescaler for t in whole.triggers]


def test_a_zero_delta_has_rescaler_zero_and_says_so():
    with pytest.warns(UserWarning, match="magnitude 0"):
        unified = condu.unify([one(1.0, 2.0), one(0.0, 0.0)])
    assert unified.triggers[1].rescaler == 0.0
    assert condu.decouple(unified, 1)["w"].tolist() == [0.0, 0.0]


def test_bad_input_is_named():
    with pytest.raises(BadInput, match="at least one"):
        condu.unify([])
    with pytest.raises(BadInput, match="rescaler: .*'median'"):
        condu.unify([one(1.0)], rescaler="median")
    with pytest.raises(BadInput, match="birds: w should hold finite"):
        condu.unify([one(1.0), one(math.nan)], names=["dogs", "birds"])
    with pytest.raises(BadInput, match=r"delta '1': w is \[2\]"):
        condu.unify([one(1.0), one(1.0, 2.0)])
    with pytest.raises(BadInput, match="2 different names"):
        condu.unify([one(1.0), one(2.0)], names=["a", "a"])
    unified = condu.unify([one(1.0)], names=["dogs"])
    with pytest.raises(BadInput, match="one of dogs or its position, found 'cats'"):
        condu.decouple(unified, "cats")
    with pytest.raises(BadInput, match="found 1"):
        condu.decouple(unified, 1)
    with pytest.raises(BadInput, match="2 different names, found dogs, dogs"):
        condu.extend(unified, one(1.0), name="dogs")
