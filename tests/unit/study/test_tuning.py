"""The searches at toy scale: no test image is seen, rows are as committed, a second run is free; laptop's rates."""

from dataclasses import fields, replace

import pandas as pd
import pytest
import torch

from clipmerge import paths
from clipmerge.clip import datasets, models
from clipmerge.clip.compute import Compute
from clipmerge.errors import BadInput
from clipmerge.study import profiles
from clipmerge.study.baselines import l2, rail
from clipmerge.study.condu import lora as condu_lora
from clipmerge.study.tuning import __main__ as command
from clipmerge.study.tuning import searches

SMOKE = profiles.load("smoke")
TASKS = ("digits", "solarcells", "food")
TIME = replace(SMOKE.temporal, adaptation=("digits", "solarcells", *searches.UNSEEN), tasks=2)
TINY = replace(SMOKE, compute=Compute(), data=replace(SMOKE.data, tasks=TASKS), temporal=TIME)
NO_IMAGES, NO_LABELS = torch.zeros(0, 32, 32, 3, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
AXES = {
    "experts": {"steps": [4], "classes": [4], "lr": [1e-4, 1e-3]},
    "chain": {"steps": [2], "lr": [1e-4, 1e-3]},
    "few": {"lr": [1e-3]},
    "rules": {"quantile": [0.1], "tau": [0.01, 0.05]},
    "lora": {"lr": [1e-3]},
    "baselines": {"width": [16], "ridge": [0.1, 1.0], "fusion": [0.5], "strength": [0.1]},
    "time": {"steps": [1], "lr": [1e-4, 1e-3]},
}
MEANS = {  # method, metric → trials
    "experts": {("experts", "validation"): 2, ("condu-ft", "validation"): 2, ("average", "validation"): 2},
    "chain": {("continual-ft", "validation"): 2},
    "few": {("experts", "validation"): 1, ("condu-ft", "validation"): 1},
    "rules": {
        ("condu-ft", "own"): 105,  # 3 sides × (4 + 3 numbers of voters) × 5 weights
        ("condu-ft", "union"): 105,
        ("condu-ft, radius rule", "own"): 6,  # 3 sides × 2 temperatures
        ("condu-ft, radius rule", "union"): 6,
        ("experts, radius rule", "transfer"): 6,
    },
    "lora": {(name, "validation"): 1 for name in ("experts", "condu-lora (product)", "condu-lora (factors)")},
    "baselines": {("rail", "validation"): 2, ("l2", "validation"): 1},
    "time": {(name, metric): 2 for name in ("ft/ft", "zero-shot") for metric in ("ka", "zs", "gm")},
}


def committed(what):
    """The rows a search has left in the repository."""
    return pd.read_csv(paths.manifests() / "tuning" / f"laptop_{what}.csv")


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    """An empty cache, and datasets without test images: whoever wants to grade them has none."""
    shared, home = paths.cache("datasets"), tmp_path_factory.mktemp("home")
    names = (*TASKS, *searches.UNSEEN)
    datasets.prepare(names)
    (home / "datasets").symlink_to(shared)
    load = datasets.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMERGE_HOME", str(home))
        patch.setattr(datasets, "load", lambda name: replace(load(name), test_images=NO_IMAGES, test_labels=NO_LABELS))
        yield


@pytest.fixture(scope="module", params=searches.SEARCHES)
def searched(request, blind):
    """What is searched, and its rows."""
    return request.param, searches.run(TINY, request.param, AXES[request.param])


def test_rows_are_those_of_the_grid_in_the_committed_columns(searched):
    what, rows = searched
    assert list(rows) == list(committed(what))
    means = rows[rows.task == "mean"]
    assert means.groupby(["method", "metric"]).size().to_dict() == MEANS[what]
    assert not rows.duplicated([column for column in rows if column not in ("value", "n")]).any()
    assert rows.value.between(0, 100).all() and (rows.seed == searches.SEED).all()


def test_what_is_graded_are_validation_images(searched):
    what, rows = searched
    if what == "time":
        return  # its rows count images over all sets
    for task, part in rows[rows.task != "mean"].groupby("task"):
        data = datasets.limit(datasets.load(task), TINY.data.per_class_train, None)
        assert set(part.n) == {len(datasets.validation_split(data, seed=searches.SEED)[1])}


def test_a_second_search_computes_nothing(searched, monkeypatch):
    what, rows = searched

    def refuse(*_, **__):
        raise AssertionError("nothing is left to compute")

    monkeypatch.setattr(models, "create", refuse)
    assert searches.run(TINY, what, AXES[what]).equals(rows)
    if what != "rules":  # which are read off what is there already
        with pytest.raises(AssertionError, match="nothing is left"):
            searches.run(TINY, what, AXES[what] | {list(AXES[what])[-1]: [0.07]})


def test_the_command_writes_what_was_asked_for(tmp_path, monkeypatch, capsys):
    asked, rows = [], committed("experts")
    monkeypatch.setattr(paths, "manifests", lambda: tmp_path)
    (tmp_path / "tuning").mkdir()
    monkeypatch.setattr(searches, "run", lambda *words: asked.append(words) or rows)
    command.main(["experts", "lr=1e-4,3", "classes=48", "--profile", "smoke"])
    assert asked == [(SMOKE, "experts", {"lr": [1e-4, 3], "classes": [48]})]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "tuning" / "smoke_experts.csv"), rows)
    assert "condu-ft" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["lr", "lr=", "lr=fast", "lr=1e-3,,2", "lr=True", "lr=[1]"])
def test_values_are_numbers(text, capsys):
    with pytest.raises(SystemExit):
        command.main(["lora", text])
    assert "expected an axis and numbers" in capsys.readouterr().err


def test_axes_are_those_of_the_search():
    with pytest.raises(BadInput, match="tuning time: expected one of steps, lr; found 'rank'"):
        searches.run(TINY, "time", {"rank": [1]})


def best(rows, by):
    """Setting with the best mean, which must be the only one."""
    means = rows[rows.task == "mean"].set_index(by).value
    assert (means == means.max()).sum() == 1
    return means.idxmax()


def test_the_laptop_profile_has_the_best_of_what_is_committed():
    laptop = profiles.load("laptop")
    rows = committed("experts")
    mine = (rows.model == laptop.model) & (rows.steps == laptop.finetune.steps)
    mine &= (rows["classes"] == laptop.finetune.classes) & (rows.method == "condu-ft")
    assert best(rows[mine], "lr") == laptop.finetune.lr

    rows = committed("chain")
    mine = (rows.model == laptop.model) & (rows.steps == laptop.chain.steps)
    assert best(rows[mine], "lr") == laptop.chain.lr

    rows = committed("few")
    assert best(rows[rows.method == "condu-ft"], "lr") == laptop.few_shot.lr

    rows = committed("rules")
    rule = laptop.inference.chosen
    parts = (rule.prototypes, rule.k, rule.base, rule.weighting, rule.tau)
    words = " ".join(str(part) for part in parts if part is not None)
    means = rows[(rows.task == "mean") & (rows.metric == "own")].set_index("setting").value
    assert means[words] == means[~means.index.str.startswith("radius")].max()

    rule = laptop.inference.radius
    both = rows[rows.setting.str.startswith("radius") & rows.metric.isin(["own", "transfer"])]
    means = both.groupby("setting").value.mean()
    assert means.idxmax() == f"radius {rule.prototypes} {rule.quantile:g} {rule.tau:g}"

    rows = committed("lora")
    mine = rows[(rows.model == laptop.model) & (rows["rank"] == laptop.lora.rank)]
    assert best(mine[mine.method == f"condu-lora ({condu_lora.DEPLOYED})"], "lr") == laptop.lora.lr

    rows = committed("time")
    rows = rows[(rows.method == "ft/ft") & (rows.metric == "ka")]
    assert laptop.temporal.budget in set(rows.steps)
    assert rows.groupby("lr").value.mean().idxmax() == laptop.temporal.recipe.lr

    rows = committed("baselines")
    for name, options in (("l2", l2.Options), ("rail", rail.Options)):
        values = {field.name: field.default for field in fields(options)} | laptop.baselines.options[name]
        setting = " ".join(f"{key}={value:g}" for key, value in values.items())
        assert best(rows[rows.method == name], "setting") == setting
