"""Jobs: order, errors, places, and the same bits whoever runs them."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import cloudpickle
import psutil
import pytest
import torch

from clipmerge.errors import BadInput
from clipmerge.study.cache import scheduler

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module


def _train(seed):
    """A few steps of a tiny network: matrix products, reductions, an optimiser."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 8))
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(5):
        loss = net(torch.randn(256, 64)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return torch.nn.utils.parameters_to_vector(net.parameters()).detach()


def _fail_on_two(job):
    if job.value == 2:
        raise ValueError("no twos")
    return job.value


def _where(_):
    return sys.path, torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS"), os.getpid()


def test_serial_and_processes_agree_bitwise():
    serial = scheduler.map(_train, range(4), workers=1)
    parallel = scheduler.map(_train, range(4), workers=2, backend="processes")
    assert all(torch.equal(a, b) for a, b in zip(serial, parallel, strict=True))
    assert not torch.equal(serial[0], serial[1])


def test_serial_jobs_have_one_thread_and_the_caller_keeps_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        [(_, threads, *_)] = scheduler.map(_where, [0])
        assert (threads, torch.get_num_threads()) == (1, 2)
    finally:
        torch.set_num_threads(before)


def test_workers_are_reused_and_have_one_thread_each():
    first = scheduler.map(_where, range(4), workers=2)
    second = scheduler.map(_where, range(4), workers=2)
    assert len({pid for *_, pid in first + second}) <= 2
    assert {(threads, env) for _, threads, env, _ in first + second} == {(1, "1")}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_keeps_its_type_and_names_the_job(workers):
    jobs = [SimpleNamespace(name=f"expert/{i}", value=i) for i in range(4)]
    with pytest.raises(ValueError, match="no twos") as caught:
        scheduler.map(_fail_on_two, jobs, workers=workers)
    assert "in job 3: expert/2" in caught.value.__notes__
    assert scheduler.map(_fail_on_two, jobs[:2], workers=workers) == [0, 1]


def test_workers_do_not_see_a_changed_import_path(monkeypatch, tmp_path):
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)  # new workers: old ones could not know the new path
    monkeypatch.syspath_prepend(tmp_path)
    places = scheduler.map(_where, range(2), workers=2, backend="processes")
    assert all(str(tmp_path) not in path for path, *_ in places)
    assert sys.path[0] == str(tmp_path)


def test_no_jobs():
    assert scheduler.map(_train, [], workers=2) == scheduler.map(_train, [], backend="processes") == []


# A short job and a chain of three, given in an unkind order: 3 → 1 → 0, and 2 alone.
NEEDS = [[1], [3], [], []]


def test_a_job_follows_what_it_needs_and_the_longest_chain_goes_first():
    ran = []
    assert scheduler.flow(lambda job: ran.append(job) or job, "abcd", NEEDS, workers=1) == list("abcd")
    assert ran == list("dbac") and scheduler._chains(NEEDS) == [0, 1, 0, 2]


def _meet(job):
    """Leave a mark, wait for others' marks."""
    job.mark.touch()
    deadline = time.monotonic() + 200  # of a worker that nobody would end
    while not all(path.exists() for path in job.others):
        if time.monotonic() > deadline:
            raise TimeoutError(job.name)
        time.sleep(0.01)
    return job.name, os.getpid()


def test_order_is_that_of_the_jobs(tmp_path):
    """The first job ends only when the last has started."""
    jobs = [SimpleNamespace(name=name, mark=tmp_path / name, others=[]) for name in "abcde"]
    jobs[0].others = [jobs[4].mark]
    out = scheduler.map(_meet, jobs, workers=2)
    assert [name for name, _ in out] == list("abcde")
    assert os.getpid() not in {pid for _, pid in out}


def test_a_chain_does_not_wait_for_its_wave(tmp_path):
    """The slow job ends only when the last of the chain has started: with waves, never."""
    marks = [tmp_path / name for name in "abcd"]
    jobs = [SimpleNamespace(name=mark.name, mark=mark, others=[]) for mark in marks]
    jobs[2].others = [marks[0]]
    assert len(scheduler.flow(_meet, jobs, NEEDS, workers=2)) == 4


def _place(_):
    return scheduler.place()


def test_workers_have_places_of_their_own():
    places = scheduler.map(_place, range(8), workers=2)
    assert set(places) <= {0, 1} and places[0] != places[1]
    assert scheduler.map(_place, range(3), workers=1) == [0, 0, 0] and scheduler.place() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_follows_a_failure(workers, tmp_path):
    jobs = [SimpleNamespace(name="first", mark=tmp_path / "no" / "folder", others=[])]
    jobs += [SimpleNamespace(name="second", mark=tmp_path / "second", others=[])]
    with pytest.raises(FileNotFoundError) as caught:
        scheduler.flow(_meet, jobs, [[], [0]], workers=workers)
    assert "in job 1: first" in caught.value.__notes__
    assert not jobs[1].mark.exists()


def test_arguments_are_checked():
    with pytest.raises(BadInput, match="workers: expected at least 1, found 0"):
        scheduler.map(_train, [1], workers=0)
    with pytest.raises(BadInput, match="expected auto, serial, processes, ray; found 'threads'"):
        scheduler.map(_train, [1], backend="threads")


def test_ray_missing_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match=r"backend ray: expected the package ray \(pip install clipmerge\[paper\]\)"):
        scheduler.map(_train, [1], backend="ray")


INTERRUPTED = """
import os, sys, time
from clipmerge.study.cache import scheduler

def work(folder):
    open(os.path.join(folder, str(os.getpid())), "w").close()
    time.sleep(1200)

if __name__ == "__main__":
    scheduler.map(work, [sys.argv[1]] * 4, workers=2)
"""


def test_interrupt_leaves_no_worker_behind(tmp_path, until):
    script, pids = tmp_path / "jobs.py", tmp_path / "pids"
    pids.mkdir()
    script.write_text(INTERRUPTED)
    process = subprocess.Popen([sys.executable, script, pids], stderr=subprocess.DEVNULL)
    until(lambda: len(list(pids.iterdir())) == 2)
    workers = [int(path.name) for path in pids.iterdir()]
    process.send_signal(signal.SIGINT)
    assert process.wait() in (-signal.SIGINT, 130)
    until(lambda: not any(map(psutil.pid_exists, workers)))
