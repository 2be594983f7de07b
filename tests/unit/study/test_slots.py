"""Slots: never more at once than there are, freed however a holder ends, none needed for what a holder starts."""

import os
import subprocess
import sys
import time

import pytest

from clipmerge.study.cache import scheduler, slots

HOLD = """
import sys, time
from pathlib import Path
from clipmerge.study import slots
mine, other = map(Path, sys.argv[1:])
with slots.hold():
    mine.touch()
    deadline = time.monotonic() + float({patience})
    while not other.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    print(other.exists())
    mine.unlink()
"""


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPMERGE_HOME", str(tmp_path))


def _start(count, patience, *files):
    command = [sys.executable, "-c", HOLD.format(patience=patience), *map(str, files)]
    return subprocess.Popen(command, env=os.environ | slots.environment(count), stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("count", "patience", "met"), [(1, 0.5, False), (2, 60, True)])
def test_as_many_at_once_as_there_are_slots(tmp_path, count, patience, met):
    a, b = tmp_path / "a", tmp_path / "b"
    both = [_start(count, patience, a, b), _start(count, patience, b, a)]
    said = [process.communicate(timeout=120)[0].strip() for process in both]
    assert any(word == "True" for word in said) == met
    assert [process.returncode for process in both] == [0, 0]


def test_a_killed_holder_frees_its_slot(tmp_path, monkeypatch):
    holder = _start(1, 600, tmp_path / "a", tmp_path / "never")
    while not (tmp_path / "a").exists():
        assert holder.poll() is None
        time.sleep(0.01)
    monkeypatch.setenv(slots.VARIABLE, slots.environment(1)[slots.VARIABLE])
    holder.kill()
    holder.communicate(timeout=60)
    with slots.hold():
        assert slots.inside()
    assert not slots.inside()


def _square(x):
    return x * x


def _sum_of_squares(n):
    assert slots.inside()
    return sum(scheduler.map(_square, range(n), workers=2, backend="serial" if n == 3 else "processes"))


def test_jobs_of_a_job_need_no_slot_of_their_own(monkeypatch):
    monkeypatch.setenv(slots.VARIABLE, slots.environment(1)[slots.VARIABLE])
    assert scheduler.map(_sum_of_squares, [3, 4], workers=1) == [5, 14]


def test_without_slots_nobody_waits():
    with slots.hold(), slots.hold():
        assert slots.inside()
