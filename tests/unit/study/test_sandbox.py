"""A step has its own random state and leaves the caller's alone."""

import os
import random
import signal
import threading

import numpy as np
import pytest
import torch

from clipmerge.study.cache import isolation


def _draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_seeded_draws_repeat_and_leave_no_trace():
    before = random.getstate()
    with isolation.seeded(5):
        first = _draw()
    with isolation.seeded(5):
        second = _draw()
    with isolation.seeded(6):
        other = _draw()
    assert first == second
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert random.getstate() == before


@pytest.mark.parametrize("fail", [False, True])
def test_the_callers_stream_goes_on(fail):
    with isolation.seeded(1):
        expected = [_draw(), _draw()]
    with isolation.seeded(1):
        found = [_draw()]
        try:
            with isolation.seeded(2):
                _draw()
                if fail:
                    raise RuntimeError
        except RuntimeError:
            pass
        found.append(_draw())
    assert found == expected


def test_sigterm_is_an_exception_inside_only():
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as leaving, isolation.terminable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert leaving.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is handler


def test_terminable_in_a_thread_does_nothing():
    seen = []

    def work():
        with isolation.terminable():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_peak_memory_sees_what_was_freed(until):
    with isolation.PeakMemory(interval=0.001) as memory:
        start = memory.mb
        block = torch.ones(25_000_000)  # 100 MB
        until(lambda: memory.mb > start + 90)
        del block
    assert memory.mb > start + 90
