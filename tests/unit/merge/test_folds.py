"""EMA folds, recency weights, LiNeS, order statistics."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipmerge.errors import BadInput
from clipmerge.merge import ema, recency, techniques
from clipmerge.merge.lines import Lines
from clipmerge.merge.passes import Models, thresholds
from clipmerge.merge.registry import Recipe

from .merge_states import few, model, same, seeds


def state(value):
    return {"w": torch.tensor([float(value)])}


def test_ema_by_hand():
    experts = [state(8), state(4), state(2)]
    assert ema.fold("average", experts, state(0))["w"].item() == (8 / 2 + 4 / 2) / 2 + 2 / 2
    assert ema.fold("average", experts, state(16), start="base")["w"].item() == 16 / 8 + 8 / 8 + 4 / 4 + 2 / 2
    assert ema.fold("average", experts, state(0), weight=0.25)["w"].item() == 0.75 * (0.75 * 8 + 0.25 * 4) + 0.25 * 2
    first = 1 + 0.5 * (7 + 3)  # θ⁰ + s [(e₂ − θ⁰) + (e₁ − θ⁰)]
    assert ema.fold("task_arithmetic", experts, state(1), scale=0.5)["w"].item() == 1 + 0.5 * (1 + (first - 1))


@few
@given(seeds)
def test_ema_at_one_half_is_exponential_recency(seed):
    base, experts = model(seed), [model(seed + k) for k in range(1, 5)]
    fold = ema.fold("average", experts, base)
    offline = techniques.merge("average", experts, base, weights=[1, 1, 2, 4])
    for name in ("c", "d"):
        torch.testing.assert_close(fold[name], offline[name])


@few
@given(seeds, st.sampled_from(["slerp", "model_stock", "magmax", "ties", "emr"]))
def test_ema_folds_any_technique_pairwise(seed, name):
    base, (a, b, c) = model(seed), [model(seed + k) for k in range(1, 4)]
    by_hand = techniques.merge(name, [c, techniques.merge(name, [b, a], base)], base)
    assert same(ema.fold(name, [a, b, c], base), by_hand)


def test_ema_refuses_what_it_cannot_heed():
    with pytest.raises(BadInput, match="weight: ties takes no weights"):
        ema.fold("ties", [state(1), state(2)], state(0), weight=0.3)
    with pytest.raises(BadInput, match="weight: .* between 0 and 1"):
        ema.fold("average", [state(1), state(2)], state(0), weight=1.5)
    with pytest.raises(BadInput, match="start"):
        ema.fold("average", [state(1)], state(0), start="zero")


@pytest.mark.parametrize(
    ("schedule", "raw"),
    [
        ("uniform", [1, 1, 1]),
        ("linear", [1, 2, 3]),
        ("sqrt", [1, 2**0.5, 3**0.5]),
        ("quadratic", [1, 4, 9]),
        ("cubic", [1, 8, 27]),
        ("fifth", [1, 32, 243]),
        ("tenth", [1, 1024, 59049]),
        ("log", [0.6931472, 1.0986123, 1.3862944]),
        ("exp", [1, 2, 4]),
    ],
)
def test_recency_weights(schedule, raw):
    expected = [value / sum(raw) for value in raw]
    assert recency.weights(schedule, 3) == pytest.approx(expected)
    assert recency.weights(schedule, 3, reverse=True) == pytest.approx(expected[::-1])


def test_unknown_schedules_are_refused():
    with pytest.raises(BadInput, match="schedule: .*'cosine'"):
        recency.weights("cosine", 3)


LAYERS = [f"visual.transformer.resblocks.{i}.w" for i in range(3)] + ["transformer.resblocks.1.w", "logit_scale"]


def test_lines_by_hand():
    factors = Lines(alpha=0.5, beta=1.0, shape="quadratic").factors(LAYERS)
    assert list(factors.values()) == [0.5, 0.75, 1.5, 1.5, 0.5]
    assert Lines(shape="sqrt").factors(LAYERS)[LAYERS[1]] == 0.5 + 0.5 * 0.5**0.5
    base, expert = {n: torch.ones(2) for n in LAYERS}, {n: torch.full((2,), 5.0) for n in LAYERS}
    out = techniques.merge("task_arithmetic", [expert], base, lines=Lines())
    assert [out[n][0].item() for n in LAYERS] == [3.0, 4.0, 5.0, 5.0, 3.0]
    shrunk = techniques.merge("average", [expert], base, lines=Lines(of="weights"))
    assert shrunk[LAYERS[0]].tolist() == [2.5, 2.5]


def test_lines_takes_the_place_of_scale():
    with pytest.raises(BadInput, match="scale: LiNeS"):
        techniques.merge("ties", [state(1)], state(0), lines=Lines(), scale=0.3)
    with pytest.raises(BadInput, match="lines shape"):
        Lines(shape="cubic")


@few
@given(seeds, st.lists(st.integers(1, 37), min_size=1, max_size=3), st.integers(1, 3))
def test_thresholds_are_exact_order_statistics(seed, ranks, threads):
    generator = torch.Generator().manual_seed(seed)
    powers = 10.0 ** torch.randint(-30, 30, (2, 37), generator=generator)
    experts = torch.randn(2, 37, generator=generator) * powers
    experts[1][5:25] = experts[1][4]  # many equal values
    read = lambda x: techniques.reader({"w": x})  # noqa: E731
    models = Models({"w": ((37,), "float32")}, read(torch.zeros(37)), [read(e) for e in experts], ["a", "b"])
    found = thresholds(Recipe(merge=lambda block: block.base, ranks=lambda count: ranks), models, threads)[""]
    assert found == [[e.abs().kthvalue(rank).values.item() for rank in ranks] for e in experts]
