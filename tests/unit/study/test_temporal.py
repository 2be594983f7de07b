"""TIME's loop: what starts where, what is shared, folds in closed form, invalid strategies, resuming, tidy rows."""

from dataclasses import replace

import pytest
import torch

from clipmerge.clip import models
from clipmerge.clip.compute import Compute
from clipmerge.errors import BadInput
from clipmerge.merge import apply_delta, recency, techniques
from clipmerge.study import experts, profiles
from clipmerge.study.cache import store
from clipmerge.study.time import loop, pipeline, steps, streams
from clipmerge.study.time.loop import Strategy
from clipmerge.study.time.pipeline import Setting

SMOKE = profiles.load("smoke")
RECIPE = replace(SMOKE.temporal.recipe, steps=1, batch=6)
SETS = ("digits", "solarcells", "landcover")
TIME = replace(SMOKE.temporal, adaptation=SETS, heldout=("vehicles",), tasks=3, recipe=RECIPE)
TINY = replace(SMOKE, temporal=TIME, compute=Compute())
STREAM = streams.make(TINY)
SETTING = Setting(TINY, STREAM)


def experts_of(init, **more):
    """The experts' steps of a strategy, read off what it would merge in the end."""
    return loop.loop(SETTING, Strategy(init, "all", **more))[-1].models


def state(step):
    """Whole weights of a computed step."""
    return apply_delta(models.create(TINY.model).state_dict(), experts.delta(store.get(step)))


def starts(steps):
    """The step each expert starts from, None for the base."""
    return [step.inputs.get("start") for step in steps]


def test_where_tasks_start():
    assert starts(experts_of("zs")) == [None, None, None]
    chain = experts_of("ft")
    assert [s and s.key for s in starts(chain)] == [None, chain[0].key, chain[1].key]
    merged = starts(experts_of("all"))
    assert merged[0] is None and merged[1].fn is steps.train and merged[2].fn is steps.merge
    assert [s and s.fn for s in starts(experts_of("ema"))] == [None, steps.merge, steps.merge]
    assert starts(experts_of("ema", fold_start="first"))[1].fn is steps.train


def test_training_is_shared_by_all_that_start_alike():
    keys = lambda *args, **more: [step.key for step in experts_of(*args, **more)]  # noqa: E731
    assert keys("zs") == keys("zs", technique="ties") == keys("zs", recency="exp")
    assert keys("ft") == keys("ft", technique="magmax")
    assert keys("ema", ema_weight=0.5) == keys("ema") != keys("ema", ema_weight=0.7)
    assert keys("all") != keys("all", technique="ties")
    assert len({keys(init)[0] for init in loop.INITS}) == 1  # the first task is everybody's
    assert len({keys(init)[2] for init in loop.INITS}) == 4


def test_a_custom_weight_counts_everywhere_unless_the_reference_is_asked_for():
    fold = lambda **more: loop.loop(SETTING, Strategy("all", "ema", **more))[-1].key  # noqa: E731
    assert fold(ema_weight=0.9) != fold() == fold(ema_weight=0.9, as_reference=True)
    plain = Strategy("ema", "ema", ema_weight=0.9, as_reference=True)  # the quirk concerns "all" alone
    assert plain.weight == 0.9 and Strategy(technique="ties").weight is None


INVALID = {
    "init": ({"init": "fresh"}, "init: expected one of zs, ft, all, ema, found 'fresh'"),
    "deploy": ({"deploy": "zs"}, "deploy: expected one of ft, all, ema, found 'zs'"),
    "technique": ({"technique": "soup"}, "technique: expected one of"),
    "pair, deploy": ({"technique": "slerp", "deploy": "all"}, "slerp merges exactly two models"),
    "pair, init": ({"technique": "model_stock", "init": "all"}, "model_stock merges exactly two models"),
    "weight": ({"technique": "ties", "ema_weight": 0.5}, "ties takes no weights"),
    "range": ({"ema_weight": 1.5}, "weight: expected a number between 0 and 1"),
    "option": ({"technique": "ties", "options": {"kepe": 0.2}}, "ties: expected options among"),
    "fisher": ({"technique": "fisher"}, "fisher needs a Fisher diagonal"),
    "recency": ({"recency": "exp"}, "expected deploy all and a technique with weights, found ema and average"),
    "with base": ({"with_base": True}, "with_base: expected deploy all, found ema"),
    "fold start": ({"fold_start": "last"}, "fold_start: expected one of base, first"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_combinations_say_why(case):
    arguments, message = INVALID[case]
    with pytest.raises(BadInput, match=message):
        Strategy(**arguments)


def test_invalid_settings_say_why():
    with pytest.raises(BadInput, match="mixture: expected three shares"):
        Setting(TINY, STREAM, mixture=(1, 0, 0))
    with pytest.raises(BadInput, match="compute: expected a factor above 0, found 0"):
        Setting(TINY, STREAM, compute=0)


def test_the_budget_is_split_over_the_tasks():
    steps = lambda tasks, compute: Setting(SMOKE, streams.make(SMOKE, tasks=tasks), compute=compute).steps  # noqa: E731
    assert (steps(2, 1.0), steps(3, 1.0), steps(6, 2.0), steps(60, 0.5)) == (3, 2, 2, 1)


def test_folds_equal_their_closed_form_and_base_two_recency_weights():
    steps, base = experts_of("zs"), models.create(TINY.model).state_dict()
    e = [state(step) for step in steps]
    by_hand = {
        ("base", 0.5): ([0.125, 0.125, 0.25, 0.5], [base, *e]),
        ("first", 0.5): ([0.25, 0.25, 0.5], e),
        ("first", 0.7): ([0.09, 0.21, 0.7], e),
    }
    for (start, weight), (shares, states) in by_hand.items():
        folded = loop.loop(SETTING, Strategy("zs", "ema", ema_weight=weight, fold_start=start))[-1]
        expected = techniques.merge("average", states, base, weights=shares)
        for name, tensor in state(folded).items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=2e-6)
    newest = recency.weights("exp", 3)[1:]  # only the oldest differs: it has the fold's whole remainder besides
    assert newest[1] / newest[0] == 2


def test_interrupted_and_uninterrupted_agree_bit_for_bit(monkeypatch, tmp_path):
    datasets = store.paths.cache("datasets")

    def final(home, interrupted):
        monkeypatch.setenv("CLIPMERGE_HOME", str(home))
        home.mkdir()
        (home / "datasets").symlink_to(datasets, target_is_directory=True)
        steps = experts_of("ema")
        if interrupted:
            store.get(steps[1])
            with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
                broken.setattr(models, "create", interrupt)
                store.get(steps[2])
            assert not steps[2].folder.exists()
        return store.files.sha256(store.get(steps[2]) / experts.DELTA)

    assert final(tmp_path / "whole", False) == final(tmp_path / "parts", True)


def interrupt(*_):
    raise KeyboardInterrupt


def test_rows_of_a_run():
    rows = loop.run(STREAM, "ema", "ema", "average", 0.5, profile=TINY, seed=0)
    means = rows[rows.task == "mean"]
    assert means[means.images == "subset"].session.unique().tolist() == [0, 1, 2, 3]
    assert means[means.images == "full"].session.unique().tolist() == [3]
    full = means[means.images == "full"].set_index("metric").value
    sets = rows[rows.metric == "accuracy"].set_index("task").value
    assert full["ka"] == pytest.approx(sets[list(TIME.adaptation)].mean()) and full["zs"] == sets["vehicles"]
    assert full["gm"] == pytest.approx((full["ka"] * full["zs"]) ** 0.5)
    assert (means.method == "ema/ema").all() and (means.ema_weight == 0.5).all() and (means.n > 0).all()
    assert not rows.duplicated([column for column in rows if column not in ("value", "n")]).any()


def test_deployments_and_folding_techniques_cost_no_training_of_their_own():
    """Mixture, seed and what shapes the start make a training run; nothing else does."""

    def trained(*args, mixture=(), seed=0, **more):
        setting = Setting(TINY, streams.make(TINY), seed, mixture=mixture)
        every = list(loop.plan(setting, Strategy(*args, **more)).graded.values())
        found = {}
        while every:
            step = every.pop()
            found[step.key] = step
            every += [each for each in step.inputs.values() if hasattr(each, "key")]
        return {step.key for step in found.values() if step.fn is steps.train}

    cells = [trained("ft", deploy) for deploy in loop.DEPLOYS]
    cells += [trained("ft", "ema", technique) for technique in ("slerp", "ties")]
    cells += [trained("ft", "ema", ema_weight=0.8), trained("ft", "all", recency="exp", with_base=True)]
    assert len(cells[0]) == 3 and all(keys == cells[0] for keys in cells)
    assert not cells[0] & trained("ft", "ft", mixture=(0, 1, 1)) and not cells[0] & trained("ft", "ft", seed=1)


def test_the_bound_rehearses_pretraining_as_much_as_its_rivals():
    for mixture, sizes in {(1, 1, 1): [2, 4, 0], (0, 1, 1): [0, 6, 0]}.items():
        (step, _) = loop.bound(Setting(TINY, STREAM, mixture=mixture)).graded.values()
        (expert,) = [each for name, each in step.inputs.items() if name.startswith("model")]
        assert expert.config["sizes"] == sizes


def test_rows_name_the_mixtures_of_the_profile():
    shares = {name: Setting(TINY, STREAM, mixture=mix).columns["mixture"] for name, mix in TIME.mixtures.items()}
    assert shares == {name: name for name in TIME.mixtures} and len(shares) > 1
    assert SETTING.columns["mixture"] == next(iter(TIME.mixtures))
    assert Setting(TINY, STREAM, mixture=(0, 1, 0)).columns["mixture"] == "0:1:0"


def test_bounds_and_sparse_evaluation():
    joint = loop.collect([loop.bound(SETTING), loop.zero_shot(SETTING)])
    assert set(joint.method) == {"joint", "zero-shot"} and joint[joint.method == "joint"].session.unique() == [3]
    sparse = loop.plan(SETTING, Strategy("zs", "all"), every=2, full=False)
    assert sorted(sparse.graded) == [(0, "subset"), (2, "subset"), (3, "subset")]


def test_of_one_expert_nothing_is_merged_so_all_techniques_share_the_step():
    one, other = (loop.plan(SETTING, Strategy("zs", *how)).graded for how in (("ft",), ("all", "ties")))
    assert one[1, "subset"].key == other[1, "subset"].key


def test_one_expert_alone_is_not_merged():
    only = experts_of("zs")[:1]
    assert pipeline.merge(SETTING, pipeline.Blend(only, "task_arithmetic")) is only[0]
