"""ConDU's protocol end to end on three small tasks: what is computed, what is cached, and what a power cut changes."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from clipmerge import paths
from clipmerge.clip import datasets
from clipmerge.study import experts, profiles
from clipmerge.study.cache import store
from clipmerge.study.condu import protocol

ORDER = ("digits", "icons", "letters")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A profile of three tasks and three steps, as a reader would write one."""
    tree = yaml.safe_load((profiles.FOLDER / "smoke.yaml").read_text(encoding="utf8"))
    tree["data"] = {"per_class_train": 3, "per_class_test": 2, "tasks": list(ORDER)}
    tree["finetune"] |= {"steps": 3, "batch": 8, "lr": 1.0e-3, "warmup": 1}
    tree["compute"] = {"workers": 1}
    path = tmp_path_factory.mktemp("profile") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf8")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An empty step cache that shares the decoded images of the real one."""
    datasets.prepare(ORDER)
    shared, home = paths.cache("datasets"), tmp_path_factory.mktemp("home")
    (home / "datasets").symlink_to(shared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMERGE_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def rows(tiny, home):
    return protocol.run(profiles.load(tiny))


def test_every_method_is_graded_on_every_task_after_every_session(rows, tiny):
    matrices = rows[rows.metric == "accuracy"]
    assert len(matrices) == len(protocol.METHODS) * len(ORDER) ** 2
    assert matrices.value.between(0, 100).all()
    assert (matrices.n == matrices.task.map({"digits": 20, "icons": 96, "letters": 52})).all()
    for method in protocol.METHODS:
        steps = protocol.plan(profiles.load(tiny), method, 0)
        summary = rows[(rows.method == method) & (rows.task == "mean") & (rows.metric == "last")]
        np.testing.assert_allclose(summary.value, protocol.matrix(steps, ORDER)[-1].mean())


def test_what_the_methods_share_is_equal(rows):
    """Before the second session an expert bank of one is the same whoever keeps it; the base never changes."""
    first = rows[(rows.metric == "accuracy") & (rows.session == 1)].pivot(
        index="task", columns="method", values="value"
    )
    assert first["condu-ft"].equals(first["emr"].rename("condu-ft"))
    assert first["average"].equals(first["continual-ft"].rename("average"))
    base = rows[(rows.metric == "accuracy") & (rows.method == "zero-shot")]
    assert (base.groupby("task").value.nunique() == 1).all()


def test_a_second_run_computes_nothing(rows, tiny):
    profile = profiles.load(tiny)
    assert all(store.cached(step) for method in protocol.METHODS for step in protocol.plan(profile, method, 0))
    again = protocol.run(profile)
    assert again.equals(rows)


def test_one_learning_rate_recomputes_its_expert_and_what_follows(rows, tiny):
    profile = profiles.load(tiny)
    rates = {"icons": 5.0e-4}
    changed = replace(profile, lr_by_task=replace(profile.lr_by_task, finetune=rates))
    fresh = [task for task in ORDER if not store.cached(experts.step(changed, task, 0))]
    assert fresh == ["icons"]
    assert [store.cached(step) for step in protocol.plan(changed, "condu-ft", 0)] == [True, False, False]
    assert "config.recipe.lr 0.001 → 0.0005" in store.why(experts.step(changed, "icons", 0))


CUT = """
import os, signal, sys
from clipmerge.study import mtil, profiles
whole, renamed = os.rename, []
def rename(*paths):
    if os.path.exists(os.path.join(paths[0], "DONE.json")):  # a step; what is within one is renamed too
        if len(renamed) == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        renamed.append(paths)
    whole(*paths)
os.rename = rename
mtil.run(profiles.load(sys.argv[1])).to_csv(sys.argv[2], index=False)
"""


def test_a_power_cut_changes_no_number(rows, tiny, home, tmp_path):
    other = tmp_path / "home"
    other.mkdir()
    (other / "datasets").symlink_to(home / "datasets")
    command = [sys.executable, "-W", "error", "-c", CUT, str(tiny), str(tmp_path / "rows.csv")]
    environment = {**os.environ, "CLIPMERGE_HOME": str(other)}
    cut = subprocess.run([*command, "3"], env=environment, check=False)  # the fourth step is there, but has no name yet
    assert cut.returncode == -signal.SIGKILL
    assert len(list(other.glob("steps/**/[!.]*/DONE.json"))) == 3 and not (tmp_path / "rows.csv").exists()
    subprocess.run([*command, "-1"], env=environment, check=True)
    found = pd.read_csv(tmp_path / "rows.csv", converters={"value": float})
    keys = ["method", "task", "metric", "session"]
    both = rows.merge(found, on=keys, suffixes=("", "_after"), how="outer", indicator=True)
    assert (both._merge == "both").all() and (both.value == both.value_after).all()
