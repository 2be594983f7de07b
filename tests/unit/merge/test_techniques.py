"""Goldens by hand for every technique, on one tensor of a few numbers, and what holds for all of them."""

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipmerge.errors import BadInput
from clipmerge.merge import apply_delta, condu, delta, techniques
from clipmerge.merge.pieces import BLOCK
from clipmerge.merge.registry import Block

from .merge_states import few, model, same, seeds

# (techniques that draw random numbers draw them per expert, so their symmetry is one in distribution)
SYMMETRIC = [n for n in techniques.names() if techniques.find(n).symmetric and not techniques.find(n).random]


def state(*values, key="w"):
    return {key: torch.tensor(values, dtype=torch.float32)}


def merged(name, *deltas, base=None, **options):
    """Merge experts given by their deltas; the result as a list."""
    base = base or state(*[0.0] * len(deltas[0]))
    experts = [{"w": base["w"] + torch.tensor(d)} for d in deltas]
    return techniques.merge(name, experts, base, **options)["w"].tolist()


def close(*values):
    return pytest.approx(list(values), rel=1e-6, abs=1e-7)


def test_average():
    assert merged("average", [1.0, 2.0], [3.0, 6.0], base=state(1.0, 1.0)) == [3.0, 5.0]
    assert merged("average", [1.0], [3.0], weights=[1, 3]) == [2.5]
    assert merged("average", [1.0], [3.0], weights=[0, 1]) == [3.0]


def test_task_arithmetic():
    assert merged("task_arithmetic", [1.0, 2.0], [3.0, -6.0], base=state(1.0, 1.0), scale=0.5) == [3.0, -1.0]


def test_slerp():
    assert merged("slerp", [1.0, 0.0], [0.0, 1.0]) == close(math.sqrt(0.5), math.sqrt(0.5))
    third = merged("slerp", [2.0, 0.0], [0.0, 1.0], weights=[2, 1])
    assert third == close(2 * math.sin(math.pi / 3), math.sin(math.pi / 6))
    assert merged("slerp", [2.0, 0.0], [0.0, 1.0], weights=[1, 2], swap=True) == third
    assert merged("slerp", [1.0, 0.0], [3.0, 0.0], weights=[1, 3]) == close(2.5, 0.0)  # parallel: linear
    assert merged("slerp", [0.0, 0.0], [0.0, 1.0]) == [0.0, 0.5]  # no angle: linear


def test_model_stock():
    # cos 45° = 0.7071, r = 2c / (1 + c) = 0.8284
    r = 2 * math.sqrt(0.5) / (1 + math.sqrt(0.5))
    assert merged("model_stock", [1.0, 0.0], [1.0, 1.0], base=state(1.0, 1.0)) == close(1 + r, 1 + r / 2)
    assert merged("model_stock", [1.0, 0.0], [0.0, 1.0], base=state(3.0, 4.0)) == [3.0, 4.0]  # orthogonal: r = 0
    assert merged("model_stock", [1.0, 0.0], [-1.0, 0.0], base=state(3.0, 4.0)) == [3.0, 4.0]  # opposite: no r


def test_fisher():
    options = {"fishers": [state(1.0, 0.0, 0.0), state(3.0, 2.0, 0.0)]}
    assert merged("fisher", [1.0, 5.0, 1.0], [5.0, 7.0, 2.0], **options) == [4.0, 7.0, 1.5]
    assert merged("fisher", [1.0, 5.0, 1.0], [5.0, 7.0, 2.0], weights=[3, 1], **options) == [3.0, 7.0, 1.25]
    assert merged("fisher", [1.0, 5.0, 1.0], [5.0, 7.0, 2.0], floor=1.0, **options) == close(11 / 3, 6.5, 1.5)
    # |F| = 1 and √13: the second model counts √13 times less
    share = 3 / math.sqrt(13)
    expected = close((1 + 5 * share) / (1 + share), 7.0, (1 + 2 / math.sqrt(13)) / (1 + 1 / math.sqrt(13)))
    assert merged("fisher", [1.0, 5.0, 1.0], [5.0, 7.0, 2.0], normalise=True, **options) == expected
    with pytest.raises(BadInput, match="fishers: w .* negative"):
        merged("fisher", [1.0], [2.0], fishers=[state(1.0), state(-1.0)])


def test_magmax():
    assert merged("magmax", [1.0, -3.0, 2.0], [-2.0, 1.0, -2.0]) == [-2.0, -3.0, -2.0]  # the later wins a tie
    assert merged("magmax", [1.0, -3.0, 2.0], [-2.0, 1.0, -2.0], equal="first") == [-2.0, -3.0, 2.0]
    assert merged("magmax", [1.0], [-2.0], base=state(10.0), scale=0.5) == [9.0]


@few
@given(seed=seeds, equal=st.sampled_from(["later", "first"]))
def test_magmax_keeps_the_first_or_the_last_of_equal_magnitudes(seed, equal):
    deltas = np.random.default_rng(seed).integers(-2, 3, (4, 200)).astype(float).tolist()  # ties everywhere
    order = deltas if equal == "first" else deltas[::-1]
    expected = [max(column, key=abs) for column in zip(*order, strict=True)]  # of equal ones the one that comes first
    assert merged("magmax", *deltas, equal=equal) == expected


def test_ties():
    # prune 3 of 4; the third smallest is the threshold and stays: [4 3 . .], [. . -6 5], [. -2 . 7], sums 4, 1, -6, 12
    deltas = [4.0, 3.0, 1.0, 2.0], [0.0, 1.0, -6.0, 5.0], [1.0, -2.0, 0.0, 7.0]
    assert merged("ties", *deltas, keep=0.25) == merged("ties", *deltas, prune=0.75) == [4.0, 3.0, -6.0, 6.0]
    assert merged("ties", *deltas, keep=0.5) == close(2.5, 2.0, -6.0, 14 / 3)
    assert merged("ties", *deltas, keep=1.0, scale=2.0) == close(5.0, 4.0, -12.0, 28 / 3)


def test_ties_keeps_everything_where_the_share_to_prune_is_less_than_one_value():
    assert merged("ties", [1.0, 2.0], prune=0.4) == [1.0, 2.0]  # TIME's code would ask for the 0-th value and fail


def test_ties_breaks_a_zero_sum_by_the_majority():
    deltas = [1.0, 2.0, 3.0], [-1.0, 1.0, 1.0]
    assert merged("ties", *deltas, keep=1.0) == [1.0, 1.5, 2.0]
    assert merged("ties", [-1.0, -2.0, -3.0], [1.0, -1.0, -1.0], keep=1.0) == [-1.0, -1.5, -2.0]
    assert merged("ties", *deltas, keep=1.0, zero="none") == [0.0, 1.5, 2.0]


def test_ties_trims_what_per_says():
    base = {"visual.w": torch.zeros(2), "w": torch.zeros(2), "z": torch.zeros(2)}
    expert = {"visual.w": torch.tensor([1.0, 2.0]), "w": torch.tensor([3.0, 4.0]), "z": torch.tensor([5.0, 6.0])}

    def kept(per):
        out = techniques.merge("ties", [expert], base, keep=0.5, per=per)
        return [value for tensor in out.values() for value in tensor.tolist()]

    # the threshold is the value at rank n - n/2: 3 of 6, 1 of 2, 2 of 4; it stays itself, as in both codes
    assert kept("model") == [0.0, 0.0, 3.0, 4.0, 5.0, 6.0]
    assert kept("tower") == [1.0, 2.0, 0.0, 4.0, 5.0, 6.0]
    assert kept("tensor") == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_breadcrumbs_ties():
    # of 5 magnitudes the 2 smallest (ranks 1 and 2) and the largest go, ranks 3 and 4 stay: [. . 3 4 .], [. 4 -3 . .]
    deltas = [1.0, 2.0, 3.0, 4.0, 5.0], [5.0, 4.0, -3.0, 2.0, 1.0]
    # sums [0, 4, 0, 4, 0]: more + than −, so where the sum is 0 the sign is + and 3 stays, −3 goes
    assert merged("breadcrumbs_ties", *deltas, prune=0.4, top=0.2) == [0.0, 4.0, 3.0, 4.0, 0.0]
    # prune 0.2: ranks 2 to 4 stay, [. 2 3 4 .], [. 4 -3 2 .]; sums [0, 6, 0, 6, 0]
    assert merged("breadcrumbs_ties", *deltas, prune=0.2, top=0.2) == [0.0, 3.0, 3.0, 3.0, 0.0]
    assert merged("breadcrumbs_ties", *deltas, prune=0.2, top=0.2, merge="sum") == [0.0, 6.0, 3.0, 6.0, 0.0]
    assert merged("breadcrumbs_ties", deltas[0], prune=0.0, top=0.0) == deltas[0]
    with pytest.raises(BadInput, match="prune [+] top: expected less than 1"):
        merged("breadcrumbs_ties", *deltas, prune=0.8, top=0.2)


def test_breadcrumbs_keeps_as_many_as_it_says():
    values = torch.randn(101, generator=torch.Generator().manual_seed(0)).tolist()
    left = merged("breadcrumbs_ties", values, prune=0.85, top=0.02)
    magnitudes = sorted(map(abs, values))
    assert [v for v in left if v] == [v for v in values if magnitudes[85] <= abs(v) <= magnitudes[98]]  # 101 - 85 - 2
    assert sum(v != 0 for v in left) == 14


def test_dare_ties():
    n = 3 * BLOCK
    values = torch.tensor(merged("dare_ties", [1.0] * n, drop=0.75, seed=3))
    assert set(values.tolist()) == {0.0, 4.0}
    assert (values > 0).double().mean().item() == pytest.approx(0.25, abs=0.01)
    assert merged("dare_ties", [1.0, -2.0], [3.0, 4.0], drop=0.0) == [2.0, 4.0]
    assert values[:BLOCK].ne(values[BLOCK : 2 * BLOCK]).any()


def test_tall_mask():
    # Σ = [3, 1, 0]; votes: 1 > .4·2 and 2 > .4·1 → 2; 1 > 0 and 0 > .4·1 no → 1; 2 > .8, 2 > .8 → 2
    deltas = [1.0, 1.0, 2.0], [2.0, 0.0, -2.0]
    assert merged("tall_mask", *deltas) == [3.0, 0.0, 0.0]
    assert merged("tall_mask", *deltas, consensus=1, scale=0.5) == [1.5, 0.5, 0.0]
    assert merged("tall_mask", *deltas, consensus=0) == merged("task_arithmetic", *deltas)


def test_random():
    n = 2 * BLOCK
    values = torch.tensor(merged("random", [1.0] * n, [3.0] * n, seed=1))
    assert set(values.tolist()) == {1.0, 3.0}
    assert values.mean().item() == pytest.approx(2.0, abs=0.03)
    block = Block("w", BLOCK, 0, BLOCK, np.zeros((2, BLOCK), np.float32), seed=1)  # the second of the two
    assert values[BLOCK:].tolist() == [(1.0, 3.0)[number % 2] for number in block.drawn()]


@pytest.mark.parametrize("rescaler", condu.RESCALERS)
def test_emr_is_unify_of_all_experts_at_once(rescaler):
    base, experts = model(0), [model(k) for k in (1, 2, 3)]
    unified = condu.unify([delta(e, base) for e in experts], rescaler)
    assert same(techniques.merge("emr", experts, base), apply_delta(base, unified.delta))
    for task in range(3):
        alone = techniques.merge("emr", experts, base, task=task, rescaler=rescaler)
        assert same(alone, apply_delta(base, condu.decouple(unified, task)))
    with pytest.raises(BadInput, match="task: .*from 0 to 2, found 3"):
        techniques.merge("emr", experts, base, task=3)


def every(name, seed, count=3):
    """Models for any technique, and what else it needs."""
    base, experts = model(seed), [model(100 + seed + k) for k in range(2 if techniques.find(name).pair else count)]
    options = (
        {"fishers": [{n: x.abs() for n, x in model(k).items()} for k in range(len(experts))]}
        if name == "fisher"
        else {}
    )
    return base, experts, options


@pytest.mark.parametrize("name", techniques.names())
@few
@given(seed=seeds)
def test_all_zero_deltas_give_the_base(name, seed):
    base, experts, options = every(name, seed)
    assert same(techniques.merge(name, [base] * len(experts), base, **options), base)


@pytest.mark.parametrize("name", SYMMETRIC)
@few
@given(seed=seeds)
def test_order_changes_nothing_where_the_registry_says_so(name, seed):
    base, experts, options = every(name, seed)
    backwards = {key: value[::-1] for key, value in options.items()}
    one, other = (
        techniques.merge(name, experts, base, **options),
        techniques.merge(name, experts[::-1], base, **backwards),
    )
    for key in base:
        torch.testing.assert_close(one[key], other[key], rtol=1e-6, atol=1e-7)


@few
@given(seed=seeds, name=st.sampled_from(["average", "task_arithmetic", "ties", "magmax", "random", "fisher"]))
def test_one_expert_merges_to_itself_bit_for_bit(seed, name):
    base, (expert, *_), _ = every(name, seed)
    options = {
        "ties": {"keep": 1.0},
        "fisher": {"fishers": [model(3) | {n: torch.ones_like(x) for n, x in base.items()}]},
    }
    assert same(techniques.merge(name, [expert], base, **options.get(name, {})), expert)


@few
@given(seed=seeds, name=st.sampled_from(["average", "slerp", "magmax", "ties", "random", "fisher"]))
def test_identical_experts_merge_to_themselves(seed, name):
    base, experts, options = every(name, seed)
    options = options | ({"keep": 1.0} if name == "ties" else {})
    assert same(techniques.merge(name, [experts[0]] * len(experts), base, **options), experts[0])


@few
@given(
    seed=seeds,
    name=st.sampled_from(["task_arithmetic", "ties", "breadcrumbs_ties", "dare_ties", "magmax", "tall_mask", "emr"]),
)
def test_scaled_deltas_give_a_scaled_update(seed, name):
    zero = {n: torch.zeros_like(x) for n, x in model(0).items()}
    experts = [model(seed + k) | {"positions": zero["positions"]} for k in range(3)]
    doubled = [{n: 2 * x for n, x in e.items()} for e in experts]
    once, twice = techniques.merge(name, experts, zero), techniques.merge(name, doubled, zero)
    assert same(twice, {n: 2 * x for n, x in once.items()})


@pytest.mark.parametrize("name", ["dare_ties", "random"])
def test_randomness_is_the_seeds_and_each_tensors_own(name):
    base, experts, _ = every(name, 0)
    one, again, other = (techniques.merge(name, experts, base, seed=s) for s in (0, 0, 1))
    assert same(one, again) and not same(one, other)
    part = {n: x for n, x in base.items() if n == "c"}
    alone = techniques.merge("random", [{"c": e["c"]} for e in experts], part)
    assert torch.equal(alone["c"], techniques.merge("random", experts, base)["c"])


def test_half_precision_is_accumulated_wide_and_rounded_once():
    base, experts = model(0, dtype=torch.bfloat16), [model(k, dtype=torch.bfloat16) for k in range(1, 4)]
    out = techniques.merge("average", experts, base)
    wide = sum(e["c"].double() for e in experts) / 3
    assert out["c"].dtype == torch.bfloat16 and torch.equal(out["c"], wide.to(torch.bfloat16))


def test_tied_tensors_stay_tied():
    base, experts = model(0), [model(1), model(2)]
    for s in (base, *experts):
        s["head"] = s["c"]
    out = techniques.merge("dare_ties", experts, base)
    assert out["head"] is out["c"]
    experts[1]["head"] = experts[1]["head"] + 1
    with pytest.raises(BadInput, match="expert 1: head and c are one tensor"):
        techniques.merge("average", experts, base)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda b, e: techniques.merge("tise", e, b), "technique: expected one of average, .* found 'tise'"),
        (lambda b, e: techniques.merge("ties", e, b, kepp=0.2), "ties: expected options among keep, .* found 'kepp'"),
        (lambda b, e: techniques.merge("average", e, b, scale=2), "average: expected options among none at all"),
        (lambda b, e: techniques.merge("ties", e, b, keep=2.0), "keep: .* between 0 and 1, found 2"),
        (lambda b, e: techniques.merge("ties", e, b, per="layer"), "per: .*'layer'"),
        (lambda b, e: techniques.merge("dare_ties", e, b, drop=1.0), "drop: .* below 1"),
        (lambda b, e: techniques.merge("ties", e, b, weights=[1, 1, 1]), "weights: ties takes none"),
        (lambda b, e: techniques.merge("average", e, b, weights=[1, 2]), "weights: expected 3 numbers"),
        (lambda b, e: techniques.merge("average", e, b, weights=[1, -2, 3]), "weights: .* ≥ 0"),
        (lambda b, e: techniques.merge("average", e, b, weights=[0, 0, 0]), "positive sum"),
        (lambda b, e: techniques.merge("slerp", e, b), "slerp: expected exactly two experts, found 3"),
        (lambda b, e: techniques.merge("average", [], b), "at least one expert, found 0"),
        (lambda b, e: techniques.merge("fisher", e, b), "fishers: fisher of 3 experts takes 3, found 0"),
        (lambda b, e: techniques.merge("fisher", e, b, fishers=[b, b, {}]), "fishers 2: c should have shape"),
        (lambda b, e: techniques.merge("average", [*e, b | {"c": torch.ones(2)}], b), r"expert 3: c is \[2\]"),
        (lambda b, e: techniques.merge("average", [*e, b | {"c": b["c"] * math.nan}], b), "expert 3: c .* NaN"),
        (lambda b, e: techniques.merge("ties", [*e, b | {"c": b["c"] / 0.0}], b), "expert 3: c .* NaN or Inf"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(BadInput, match=words):
        call(model(0), [model(k) for k in (1, 2, 3)])


@pytest.mark.parametrize("name", techniques.names())
def test_every_technique_is_documented(name):
    assert "θ" in techniques.describe(name) or "TIES" in techniques.describe(name)
    assert "arXiv" in techniques.describe(name) or name in ("random", "slerp")


def test_random_numbers_are_those_of_torchs_generator():
    block = Block("w", 0, 0, 1000, np.zeros((2, 1000), np.float32), seed=3)
    state = int.from_bytes(hashlib.sha256(b"3/w/1/0").digest()[:8]) % 2**63
    expected = torch.randint(7, (1000,), generator=torch.Generator().manual_seed(state))
    assert torch.equal(torch.from_numpy((block.drawn(1) % 7).astype(np.int64)), expected)
