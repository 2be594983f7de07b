"""Steps on Ray: two workers of one machine stand for a cluster. Runs in a process of its own, as Ray leaves threads."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from clipmerge.clip import device
from clipmerge.study import experts, profiles
from clipmerge.study.cache import placement
from clipmerge.study.cache.cluster import Need
from clipmerge.study.cache.step import Step

JOBS = '''
"""Step functions that workers import."""

import os
import signal

from clipmerge.study.cache import isolation


def write(out, *, config, inputs, seed):
    (out / "text").write_text(f"{config['word']}{len(inputs)}")


def fail(out, *, config, inputs, seed):
    raise ValueError("no luck")


def killed(out, *, config, inputs, seed):
    """Ends its process in the middle of the work; goes on from where the first one stopped."""
    kept = isolation.checkpoint()
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    (out / "text").write_text(f"resumed at {kept.read_text()}")
'''

DRIVER = '''
import json, sys
import ray, ray_jobs
from clipmerge.clip.compute import Compute
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step

for _ in range(20):  # Ray gives its daemons half a minute to start; a busy machine may need longer
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        break
    except Exception as error:
        ray.shutdown()
        print(error, file=sys.stderr)
cluster = Compute(device="auto", engine="ray", workers=2)
numerics = {"compute": cluster.numerics}
first = [Step(ray_jobs.write, f"write/{i}", {"word": "a", "number": i, **numerics}) for i in range(3)]
lost = Step(ray_jobs.killed, "killed", numerics, {"first": first[0]})
last = Step(ray_jobs.write, "last", {"word": "b"}, {"lost": lost, "one": first[1], "two": first[2]})
said = {}
folders = store.build([last, lost], cluster)
said["texts"] = [(folder / "text").read_text() for folder in folders]
try:
    store.build([Step(ray_jobs.fail, "fail", {}), last], cluster)
except ValueError as error:
    said["failed"] = [str(error), *error.__notes__]
said["again"] = store._missing([last])
said["device"] = store.record(lost)["device"]
said["left"] = [path.name for path in folders[0].parents[2].rglob("*.partial")]
insists = Compute(device="cuda", engine="ray")
try:
    store.build([Step(ray_jobs.write, "gpu", {"word": "c", "compute": insists.numerics})], insists)
except ValueError as error:
    said["insists"] = str(error)
json.dump(said, open(sys.argv[1], "w"))
'''


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (extra paper)")
def test_steps_on_two_workers(tmp_path):
    """Dependencies, a killed worker that is retried from its checkpoint, a failing job, a GPU that is not there."""
    (tmp_path / "ray_jobs.py").write_text(JOBS)
    (tmp_path / "driver.py").write_text(DRIVER)
    library = str(Path(device.__file__).parents[2])
    found = [str(tmp_path), library, os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"CLIPMERGE_HOME": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(found)}
    subprocess.run([sys.executable, tmp_path / "driver.py", tmp_path / "said.json"], env=env, check=True, cwd=tmp_path)
    said = json.loads((tmp_path / "said.json").read_text())
    assert said["texts"] == ["b3", "resumed at half"]
    assert said["failed"] == ["no luck", "in job 1: fail"]
    assert (said["again"], said["left"], said["device"]) == ([], [], "cpu")
    assert said["insists"] == "engine: compute.device is cuda: expected a GPU in the Ray cluster, found none"


def test_a_head_without_gpu_plans_what_workers_with_one_run(monkeypatch):
    """Keys come from the profile, not from the machine: what is planned on the CPU is found by who ran it on a GPU."""
    profile = profiles.load("laptop")
    planned = experts.step(profile, "digits", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device.resolve(profile.compute.device).type == "cuda"
    assert experts.step(profile, "digits", 0).key == planned.key


@pytest.mark.parametrize(
    ("name", "where", "wanted"),
    [("laptop", "auto", Need(placement.SMALL)), ("laptop", "cpu", Need()), ("paper-condu", "cuda", Need(1.0, True))],
)
def test_steps_say_what_they_need(name, where, wanted):
    profile = profiles.load(name)
    profile = replace(profile, compute=replace(profile.compute, device=where))
    with device.nowhere():
        step = experts.step(profile, profile.data.tasks[0], 0)
    assert placement.need(step) == wanted
    merging = Step(experts.tune, "merging", {}, {"expert": step})
    assert placement.need(merging) == Need()
