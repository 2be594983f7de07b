"""The cache: hits, graphs, damage, interruption, and several processes at once."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clipmerge.errors import BadInput
from clipmerge.study.cache import store
from clipmerge.study.cache.store import Step

ran = []


def tune(out, *, config, inputs, seed):
    """An "expert": a number from the base, the learning rate and chance."""
    ran.append(f"expert/{config['task']}")
    base = float(inputs["base"].read_text())
    (out / "expert.txt").write_text(str(base + config["lr"] + float(torch.rand(()))))


def unify(out, *, config, inputs, seed):
    """A session: adds the newcomer to what there was."""
    ran.append(f"unify/{config['session']}")
    total = float((inputs["newcomer"] / "expert.txt").read_text())
    if "before" in inputs:
        total += float((inputs["before"] / "deep" / "sum.txt").read_text())
    (out / "deep").mkdir()
    (out / "deep" / "sum.txt").write_text(str(total))


def fail(out, *, config, inputs, seed):
    """Leaves half a file and gives up."""
    (out / "half.txt").write_text("half")
    raise RuntimeError("out of luck")


def silent(out, *, config, inputs, seed):
    """Writes nothing."""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty cache, and a store that has seen nothing."""
    monkeypatch.setenv("CLIPMERGE_HOME", str(tmp_path / "home"))
    ran.clear()
    _forget()
    return tmp_path / "home"


def _forget():
    """What a new process does not know."""
    store._verified.clear()
    store._outcomes.clear()


@pytest.fixture
def base(tmp_path):
    """A file that stands for the base model."""
    path = tmp_path / "base.txt"
    path.write_text("1.0")
    return path


def _graph(base, **rates):
    """Three experts and three sessions; `rates` changes learning rates by task."""
    steps, before = [], {}
    for session, task in enumerate(("digits", "flags", "food"), start=1):
        expert = Step(tune, f"expert/{task}", {"task": task, "lr": rates.get(task, 0.5)}, {"base": base}, seed=7)
        steps.append(expert)
        before = {"before": Step(unify, f"unify/{session}", {"session": session}, {"newcomer": expert, **before})}
        steps.append(before["before"])
    return steps


def _files(home):
    return sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())


def test_second_time_nothing_runs(base):
    first = [folder.read_text() for step in _graph(base) for folder in store.get(step).rglob("*.txt")]
    assert len(ran) == 6
    assert store.summary() == "0 cached, 6 computed"
    _forget()
    second = [folder.read_text() for step in _graph(base) for folder in store.get(step).rglob("*.txt")]
    assert len(ran) == 6
    assert store.summary() == "6 cached, 0 computed"
    assert first == second


def test_the_last_step_brings_what_it_needs(base):
    store.get(_graph(base)[-1])
    assert sorted(ran) == ["expert/digits", "expert/flags", "expert/food", "unify/1", "unify/2", "unify/3"]
    assert ran.index("expert/food") < ran.index("unify/3") > ran.index("unify/2")


def test_upstream_of_a_cached_step_is_not_needed(base, home):
    folder = store.get(_graph(base)[-1])
    for step in _graph(base)[:-1]:
        for path in sorted(step.folder.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        step.folder.rmdir()
    ran.clear()
    assert store.get(_graph(base)[-1]) == folder
    assert ran == []


def test_one_learning_rate_recomputes_its_expert_and_what_follows(base, caplog):
    store.build(_graph(base))
    ran.clear()
    caplog.set_level("INFO", logger="clipmerge.study.cache.store")
    store.build(_graph(base, flags=0.25))
    assert ran == ["expert/flags", "unify/2", "unify/3"]
    assert caplog.messages == [
        "expert/flags: config.lr 0.5 → 0.25",
        "unify/2: inputs.newcomer changed",
        "unify/3: inputs.before changed",
    ]
    ran.clear()
    store.build(_graph(base))
    assert ran == []


def test_a_changed_file_recomputes_everything_behind_it(base):
    store.build(_graph(base))
    ran.clear()
    base.write_text("2.0")
    store.build(_graph(base))
    assert len(ran) == 6


def test_twins_under_two_names_both_exist(base):
    steps = [Step(tune, name, {"task": "digits", "lr": 1}, {"base": base}) for name in ("one", "two")]
    one, two = store.build(steps)
    assert steps[0].key == steps[1].key and one != two
    assert (one / "expert.txt").read_text() == (two / "expert.txt").read_text()


def test_a_folder_is_as_good_an_input_as_its_step(base):
    expert = Step(tune, "expert/digits", {"task": "digits", "lr": 1}, {"base": base})
    by_step = Step(unify, "unify/1", {"session": 1}, {"newcomer": expert})
    by_folder = Step(unify, "unify/1", {"session": 1}, {"newcomer": store.get(expert)})
    assert by_step.key == by_folder.key


def test_the_caller_keeps_its_random_stream(base):
    torch.manual_seed(3)
    expected = torch.rand(())
    torch.manual_seed(3)
    store.build(_graph(base))
    assert torch.rand(()) == expected


def test_record(base):
    step = _graph(base)[1]
    folder = store.get(step)
    done = store.record(step)
    assert done["key"] == step.key and done["parts"] == step.parts
    assert set(done["files"]) == {"deep/sum.txt"}
    assert done["files"]["deep/sum.txt"]["bytes"] == (folder / "deep" / "sum.txt").stat().st_size
    assert done["seconds"] >= 0 and done["peak_memory_mb"] > 10
    assert store.cached(step)


@pytest.mark.parametrize(("fn", "error"), [(fail, RuntimeError), (silent, BadInput)])
def test_failure_leaves_nothing(fn, error, home):
    with pytest.raises(error) as caught:
        store.get(Step(fn, "bad/luck"))
    assert "in job 1: bad/luck" in caught.value.__notes__
    assert _files(home) == []
    assert list((home / "steps" / "bad" / "luck").iterdir()) == []


def test_a_step_cannot_change_its_config(base):
    step = Step(_meddle, "meddle", {"list": [1]})
    key = step.key
    store.get(step)
    assert step.config == {"list": [1]} and step.key == key


def _meddle(out, *, config, inputs, seed):
    config["list"].append(2)
    (out / "x").write_text(str(config))


def _flip(path):
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    os.utime(path, (1, 1))  # another date, even where clocks of file systems are coarse


DAMAGE = {
    "flipped byte": (lambda f: _flip(f / "expert.txt"), "expert.txt does not have its sha256"),
    "truncated": (lambda f: (f / "expert.txt").write_text(""), "expert.txt has 0 bytes instead of"),
    "missing file": (lambda f: (f / "expert.txt").unlink(), "expert.txt is missing"),
    "no marker": (lambda f: (f / "DONE.json").unlink(), "DONE.json is missing or damaged"),
    "half a marker": (lambda f: (f / "DONE.json").write_text('{"key'), "DONE.json is missing or damaged"),
    "foreign marker": (lambda f: (f / "DONE.json").write_text('{"key": "1", "files": {}}'), "belongs to another key"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("same_process", [True, False])
def test_damage_is_put_aside_and_mended(base, home, caplog, damage, same_process):
    step = _graph(base)[0]
    good = (store.get(step) / "expert.txt").read_text()
    store.get(step)  # now verified in this process
    harm, sentence = DAMAGE[damage]
    harm(step.folder)
    if not same_process:
        _forget()
    assert not store.cached(step)
    assert sentence in store.why(step)
    ran.clear()
    assert (store.get(step) / "expert.txt").read_text() == good
    assert ran == ["expert/digits"]
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warning.startswith("expert/digits: ") and sentence in warning
    (aside,) = (home / "quarantine").iterdir()
    assert str(aside) in warning


def test_a_touched_file_is_still_good(base):
    """Copying a cache changes times, not contents."""
    step = _graph(base)[0]
    os.utime(store.get(step) / "expert.txt", (1, 1))
    ran.clear()
    store.get(step)
    assert ran == []


def test_why(base):
    digits = {"task": "digits", "lr": 0.5}
    step = Step(tune, "expert/digits", digits, {"base": base})
    assert store.why(step) == "expert/digits: never computed"
    store.get(step)
    assert store.why(step) == "expert/digits: cached"
    store.get(Step(tune, "expert/digits", {"task": "digits", "lr": 0.25}, {"base": base}, seed=9))
    nearest = Step(tune, "expert/digits", {"task": "digits", "lr": 0.125}, {"base": base})
    assert store.why(nearest) == "expert/digits: config.lr 0.5 → 0.125"


def test_leftovers_of_dead_processes_are_swept(base):
    step = _graph(base)[0]
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = os.uname().nodename
    names = [f".k.abc.{dead.pid}@{host}.partial", f".k.abc.{os.getpid()}@{host}.partial", ".k.abc.1@elsewhere.partial"]
    for name in names:
        (step.folder.parent / name).mkdir(parents=True)
    store.get(step)
    left = {path.name for path in step.folder.parent.iterdir()}
    assert left == {step.folder.name, *names[1:]}


LAB = """
import os, time
from pathlib import Path
import torch
from clipmerge.study.cache.store import Step

def slow(out, *, config, inputs, seed):
    (out / "half").write_text("x")
    Path(config["started"]).touch()
    time.sleep(1200)

def meet(out, *, config, inputs, seed):
    '''Ends only when two processes are inside.'''
    here = Path(config["meeting"])
    (here / str(os.getpid())).touch()
    while len(list(here.iterdir())) < 2:
        time.sleep(0.01)
    (out / "who").write_text(str(os.getpid()))

def net(out, *, config, inputs, seed):
    weights = torch.randn(64, 64)
    for path in inputs.values():
        weights = weights @ torch.load(path / "w.pt", weights_only=True)
    torch.save(weights, out / "w.pt")

def graph():
    leaves = [Step(net, f"leaf/{i}", {"i": i}, seed=i) for i in range(3)]
    link = Step(net, "link", inputs={"in": leaves[0]}, seed=3)
    return [Step(net, "root", inputs={f"in{i}": step for i, step in enumerate([*leaves, link])})]
"""


@pytest.fixture
def lab(tmp_path, home):
    """Start Python on a line of code that can import `lab`, with the test's cache."""
    (tmp_path / "lab.py").write_text(LAB)

    def start(code, **environment):
        path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, "PYTHONPATH": path, **environment}
        head = "import sys, lab", "from clipmerge.study.cache import store", "Compute, Step = store.Compute, store.Step"
        command = [sys.executable, "-c", "\n".join([*head, code])]
        return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE)

    return start


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_in_the_middle(lab, tmp_path, home, until, number):
    started = tmp_path / "started"
    process = lab(f"store.get(Step(lab.slow, 'slow', {{'started': {str(started)!r}}}))")
    until(started.exists)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: -2}[number]
    left = list((home / "steps" / "slow").iterdir())
    if number == signal.SIGKILL:  # nobody could clean up, but nothing bears a final name
        assert [path.suffix for path in left] == [".partial"]
        store._sweep(home / "steps" / "slow")
        left = list((home / "steps" / "slow").iterdir())
    assert left == []


def test_two_processes_one_key(lab, tmp_path, home):
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    code = f"f = store.get(Step(lab.meet, 'meet', {{'meeting': {str(meeting)!r}}})); print((f / 'who').read_text())"
    both = [lab(code), lab(code)]
    said = [process.communicate(timeout=200)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    (folder,) = (home / "steps" / "meet").iterdir()
    assert len(list(meeting.iterdir())) == 2
    assert (folder / "who").read_text() in {str(process.pid) for process in both}
    assert set(said) <= {str(process.pid) for process in both}
    assert json.loads((folder / "DONE.json").read_text())["files"].keys() == {"who"}


def test_parallel_equals_serial_bitwise(lab, tmp_path):
    homes = [tmp_path / "serial", tmp_path / "parallel"]
    for workers, place in enumerate(homes, start=1):
        code = f"store.build(lab.graph(), Compute(workers={workers})); print(store.summary())"
        process = lab(code, CLIPMERGE_HOME=str(place))
        out, _ = process.communicate(timeout=200)
        assert out.strip() == "0 cached, 5 computed"
    serial, parallel = ({p.relative_to(h): p.read_bytes() for p in h.rglob("w.pt")} for h in homes)
    assert len(serial) == 5
    assert serial == parallel


def test_edited_code_is_not_run_under_the_old_key(base, monkeypatch):
    """A worker that has read newer code than the one who asked must refuse."""
    step = _graph(base)[0]
    step.parts["code"][__name__] = "as it was before the edit"
    with pytest.raises(BadInput, match="expert/digits: its code changed while it was waiting to run"):
        store._compute(step)
    assert not step.folder.parent.exists() or not list(Path(step.folder.parent).iterdir())
