"""The ledger: what was met, what it took, and how long the caller waited for it."""

import json
import time

import pytest

from clipmerge.study.cache import ledger, store
from clipmerge.study.cache.store import Step


def toil(out, *, config, inputs, seed):
    """Takes as long as it says."""
    start = time.process_time()
    while time.process_time() - start < config["seconds"]:  # work, not sleep: what counts is the processor's time
        pass
    (out / "x").write_text("x")


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    """An empty cache and a ledger of its own."""
    monkeypatch.setenv("CLIPMERGE_HOME", str(tmp_path / "home"))
    forget(monkeypatch)


def forget(monkeypatch):
    """What a new process knows: nothing."""
    for name, value in {"_met": set(), "_costs": {}, "_spent": {"waited": 0.0, "busy": 0.0}}.items():
        monkeypatch.setattr(ledger, name, value)


def chain():
    first = Step(toil, "toil/first", {"seconds": 0.05})
    return Step(toil, "toil/second", {"seconds": 0.1}, {"before": first})


def test_cached_steps_and_what_they_need_cost_what_they_once_did(monkeypatch, tmp_path):
    store.get(chain())
    cold = ledger.cost()
    names = [name.rpartition("/")[0] for name in cold["steps"]]
    assert names == ["toil/first", "toil/second"]
    first, second = (step["seconds"] for step in cold["steps"].values())
    assert first >= 0.05 and second >= 0.1
    assert cold["waited"] >= 0.15 and all(step["peak_mb"] > 10 for step in cold["steps"].values())
    forget(monkeypatch)
    monkeypatch.setenv(ledger.FILE, str(tmp_path / "ledger.json"))
    store.get(chain())
    warm = json.loads((tmp_path / "ledger.json").read_text())
    assert warm["steps"] == cold["steps"] and warm["busy"] < 0.15 <= cold["busy"]


def test_a_step_that_is_not_there_costs_nothing():
    ledger.meet([chain()])
    assert ledger.cost() == {"waited": 0.0, "busy": 0.0, "steps": {}}


def test_minutes():
    assert ledger.minutes(30.0, [{"seconds": 60.0}, {"seconds": 120.0}], workers=2) == 2.0
