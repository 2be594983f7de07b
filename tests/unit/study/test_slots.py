"""Slots: never more at once than there are, freed however a holder ends, none needed for what a holder starts."""

import os
import subprocess
import sys

import pytest

from clipmerge.study.cache import scheduler, slots

# Leaves marks when it waits, is inside and has left; inside, it looks whether the other is too, once that has left any.
HOLD = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from clipmerge.study.cache import slots

mine, other = sys.argv[1:]
sleep, deadline = time.sleep, time.monotonic() + 200

def wait(seconds):
    Path(mine + ".waits").touch()
    sleep(seconds)

slots.time = SimpleNamespace(sleep=wait)
with slots.hold():
    Path(mine + ".inside").touch()
    while not list(Path(other).parent.glob(Path(other).name + ".*")) and time.monotonic() < deadline:
        sleep(0.01)
    print(Path(other + ".inside").exists())
    Path(mine + ".left").touch()
    Path(mine + ".inside").unlink()
"""


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPMERGE_HOME", str(tmp_path))


def _start(count, *marks):
    command = [sys.executable, "-c", HOLD, *map(str, marks)]
    return subprocess.Popen(command, env=os.environ | slots.environment(count), stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("count", "met"), [(1, False), (2, True)])
def test_as_many_at_once_as_there_are_slots(tmp_path, count, met):
    a, b = tmp_path / "a", tmp_path / "b"
    both = [_start(count, a, b), _start(count, b, a)]
    said = [process.communicate()[0].strip() for process in both]
    assert any(word == "True" for word in said) == met
    assert [process.returncode for process in both] == [0, 0]


def test_a_killed_holder_frees_its_slot(tmp_path, monkeypatch, until):
    holder = _start(1, tmp_path / "a", tmp_path / "never")
    until((tmp_path / "a.inside").exists)
    monkeypatch.setenv(slots.VARIABLE, slots.environment(1)[slots.VARIABLE])
    holder.kill()
    holder.communicate()
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
