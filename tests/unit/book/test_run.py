"""The runner, on toy notebooks with real kernels: success, nothing to do, failure, interruption."""

import json
import os
import signal
import subprocess
import sys

import nbformat
import nbformat.v4 as v4
import psutil
import pytest
from jupyter_client.provisioning import LocalProvisioner

from clipmerge import paths
from clipmerge.book import kernels, lanes, run

PARAMETERS = 'profile = "laptop"\nseed = 0\nout = ""'
MAKE = "\n".join(
    [
        "from pathlib import Path",
        "for kind in ('csv', 'json'):",
        "    Path(out, f'toy_table.{kind}').write_text(f'{profile} {seed}')",
    ]
)


def write(folder, name, *cells, parameters=PARAMETERS, outputs=(), reads=()):
    first = v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    nb = v4.new_notebook(cells=[v4.new_markdown_cell("# Toy"), first, *map(v4.new_code_cell, cells)])
    nb.metadata["clipmerge"] = {"outputs": list(outputs), "manifests": [], "reads": list(reads)}
    nbformat.write(nb, folder / f"{name}.ipynb")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Folders for notebooks and figures, and a cache of its own; returns a function that calls the runner."""
    monkeypatch.setenv("CLIPMERGE_HOME", str(tmp_path / "cache"))
    for name in ("notebooks", "figures"):
        (tmp_path / name).mkdir()
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments):
        where = ["--notebooks", str(tmp_path / "notebooks"), "--out", str(tmp_path / "figures")]
        return run.main([*where, "--one-by-one", *arguments])

    call.folder, call.figures = tmp_path / "notebooks", tmp_path / "figures"
    yield call
    signal.signal(signal.SIGTERM, before)


def left(pattern="*"):
    return sorted(path.name for path in paths.cache("executed", "smoke").glob(pattern))


def test_runs_once_then_says_why_not_and_what_changed(toy, capsys):
    write(toy.folder, "10_toy", MAKE, outputs=["toy_table"])
    assert toy() == 0
    assert "10_toy: running (no finished run yet)" in capsys.readouterr().out
    assert (toy.figures / "toy_table.csv").read_text() == "smoke 0"  # CLIPMERGE_PROFILE wins
    assert left() == ["10_toy.ipynb", "10_toy.json"]
    record = json.loads(paths.cache("executed", "smoke", "10_toy.json").read_text())
    assert record["peak_mb"] >= record["notebook_mb"] > 10
    assert record["steps"] == {} and 0 < record["own_seconds"] < 60 * record["minutes"] + 0.4

    assert toy() == 0
    assert capsys.readouterr().out == ("10_toy: up to date (nothing it depends on has changed; 1 outputs there)\n")
    (toy.figures / "toy_table.csv").unlink()
    write(toy.folder, "20_other")
    assert toy("--only", "10") == 0
    assert "10_toy: running (missing, or not as it was made: toy_table)" in capsys.readouterr().out
    (toy.figures / "toy_table.csv").write_text("of another run")
    assert toy("--only", "10") == 0
    assert "10_toy: running (missing, or not as it was made: toy_table)" in capsys.readouterr().out
    assert toy("--only", "10", "--seed", "3") == 0
    assert "10_toy: running (changed: seed)" in capsys.readouterr().out
    assert (toy.figures / "toy_table.csv").read_text() == "smoke 3"


def test_a_notebook_runs_again_when_another_made_what_it_reads(toy, capsys):
    write(toy.folder, "10_toy", MAKE, outputs=["toy_table"])
    write(toy.folder, "31_sum", "print(open(f'{out}/toy_table.csv').read())", reads=["toy_*"])
    assert toy() == 0
    capsys.readouterr()
    assert toy("--seed", "0") == 0
    assert capsys.readouterr().out.count("up to date") == 2

    changed = MAKE.replace("{profile} {seed}", "{profile} {seed} anew")
    write(toy.folder, "10_toy", changed, outputs=["toy_table"])
    assert toy() == 0  # the reader's turn comes after the csv was made, in the same run
    assert "31_sum: running (changed: figures/toy_table.csv)" in capsys.readouterr().out
    assert toy() == 0
    assert capsys.readouterr().out.count("up to date") == 2


BRIEF = """
import json, subprocess, sys, time
from pathlib import Path
import psutil
held = "import sys; held = b'x' * 300_000_000; print(flush=True); sys.stdin.read()"
helper = subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
helper.stdout.readline()
gone = b"x" * 100_000_000
before = psutil.Process().memory_info().rss
del gone
start = time.process_time()
while time.process_time() < start + 0.1:
    pass
Path(out, "said.json").write_text(json.dumps([before / 1e6, time.process_time()]))
"""


def test_a_short_notebook_has_an_honest_record(toy, monkeypatch):
    """What it takes is known however seldom the runner looks; what it has freed only where the system keeps count."""
    monkeypatch.setattr(kernels, "EVERY", 3600.0)
    write(toy.folder, "10_brief", BRIEF)
    assert toy() == 0
    record = json.loads(paths.cache("executed", "smoke", "10_brief.json").read_text())
    memory, seconds = json.loads((toy.figures / "said.json").read_text())
    assert record["own_seconds"] >= seconds - 0.02  # what the system counts in hundredths is rounded twice
    assert record["notebook_mb"] > (0.9 * memory if sys.platform == "linux" else 10)  # 100 MB of it were freed
    assert record["peak_mb"] > 300


DRAW = """
import matplotlib.pyplot as plt
from clipmerge.book import setup, figures
from clipmerge.study import results
run = setup(profile, seed, out)
figure, axes = plt.subplots()
axes.plot([0, 1], [0, 1], **figures.look("condu-ft"))
axes.set(xlabel="session", ylabel="accuracy (%)");
rows = results.rows({"mean": 1.5}, method="condu-ft", metric="last", seed=run.seed, n=10)
figures.save(figure, "toy_table", rows, run, note="Toy.")
"""


def test_a_second_process_writes_the_same_bytes(toy):
    write(toy.folder, "10_toy", DRAW, outputs=["toy_table"])
    assert toy() == 0
    first = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in toy.figures.iterdir()}
    assert {"toy_table.pdf", "toy_table.png", "toy_table.csv", "toy_table.json", "INDEX.md"} == set(first)
    assert toy("--force") == 0
    for path in toy.figures.iterdir():
        content, written = first[path.name]
        assert path.read_bytes() == content
        assert path.suffix == ".json" or path.stat().st_mtime_ns == written  # not even rewritten


def test_a_failure_names_the_cell_and_does_not_stop_the_others(toy, capsys):
    write(toy.folder, "10_bad", "x = 1", "# why\n1 / 0", "print('never')")
    write(toy.folder, "20_liar", "x = 1", outputs=["toy_table"])
    assert toy() == 1
    said = capsys.readouterr().err
    assert "10_bad: FAILED: cell In [4] '# why' raised ZeroDivisionError: division by zero" in said
    assert "20_liar: FAILED: it ran, but did not make toy_table" in said
    assert left() == ["10_bad.failed.ipynb", "20_liar.failed.ipynb"]
    write(toy.folder, "10_bad", "x = 1")
    assert toy("--only", "10") == 0
    assert left("10*") == ["10_bad.ipynb", "10_bad.json"]


def test_what_an_earlier_run_made_does_not_count(toy, capsys):
    write(toy.folder, "10_toy", MAKE, outputs=["toy_table"])
    assert toy() == 0
    for path in toy.figures.iterdir():  # made just now, however long starting another kernel takes
        os.utime(path)
    write(toy.folder, "10_toy", "x = 1", outputs=["toy_table"])
    assert toy() == 1
    assert "10_toy: FAILED: it ran, but did not make toy_table" in capsys.readouterr().err


def test_a_dead_kernel_is_a_failure(toy, capsys):
    write(toy.folder, "10_dies", "import os\nos._exit(9)")
    assert toy() == 1
    assert "10_dies: FAILED: cell In [3] 'import os' raised DeadKernelError" in capsys.readouterr().err
    assert left() == ["10_dies.failed.ipynb"]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ('profil = "laptop"\nseed = 0\nout = ""', "expected profile, seed, out; found profil, seed, out"),
        ('profile = "laptop"\nseed = 0\nout = ""\nlr = 0.1', "found profile, seed, out, lr"),
        ('profile = "laptop"\nseed = "0"\nout = ""', "parameter seed: expected int, found '0'"),
        ('profile = "laptop"\nseed = 0\nout = str(1)', "expected only assignments of literals, found 'out = str(1)'"),
    ],
)
def test_misspelt_parameters_stop_everything_before_it_starts(toy, capsys, parameters, said):
    write(toy.folder, "10_good")
    write(toy.folder, "20_bad", parameters=parameters)
    assert toy() == 2
    error = capsys.readouterr().err
    assert said in error and "20_bad.ipynb" in error
    assert left() == []


@pytest.mark.parametrize("arguments", [["--only", "77"], ["--seed", "-1"], ["--out", "a{b}"]])
def test_bad_arguments_are_one_sentence(toy, capsys, arguments):
    write(toy.folder, "10_good")
    assert toy(*arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_idle_kernel_is_asked_to_end_and_never_interrupted(toy, monkeypatch):
    sent = []
    send = LocalProvisioner.send_signal

    async def record(self, number):
        sent.append(number)
        await send(self, number)

    monkeypatch.setattr(LocalProvisioner, "send_signal", record)
    write(toy.folder, "10_good", "x = 1")
    write(toy.folder, "20_bad", "1 / 0")
    assert toy() == 1
    assert left() == ["10_good.ipynb", "10_good.json", "20_bad.failed.ipynb"]
    assert signal.SIGINT not in sent


# It would end long after the test, and what shows that it is in the middle of it appears whole or not at all.
LONG = """
import os, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1200)"])
with open({started!r} + ".partial", "w") as file:
    file.write(f"{{os.getpid()}} {{worker.pid}}")
os.rename(file.name, {started!r})
time.sleep(1200)
"""


def runs(pid):
    """Whether a process is left; what has ended and waits to be collected does not count."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start(toy, *arguments):
    """The runner as readers start it, in a process of its own."""
    command = [sys.executable, "-m", "clipmerge.book.run", "--notebooks", str(toy.folder), "--out", str(toy.figures)]
    return subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


MEET = """
import time
from pathlib import Path
Path({mine!r}).touch()
deadline = time.monotonic() + 200
while not Path({other!r}).exists():
    assert time.monotonic() < deadline, "alone"
    time.sleep(0.05)
"""


def test_two_lanes_run_side_by_side_and_what_needs_both_afterwards(toy, tmp_path):
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    write(toy.folder, "10_condu", MEET.format(mine=a, other=b))
    write(toy.folder, "20_time", MEET.format(mine=b, other=a))
    write(toy.folder, "30_both", "1 / 0")
    process = start(toy)
    said, error = process.communicate(timeout=240)
    assert process.returncode == 1, error
    assert left() == ["10_condu.ipynb", "10_condu.json", "20_time.ipynb", "20_time.json", "30_both.failed.ipynb"]
    assert said.splitlines()[-1].startswith("30_both: running")
    again = start(toy, "--only", "1", "2")
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0 and said.count("up to date") == 2


def test_lanes():
    names = ["00_start", "11_condu", "20_time", "24_time", "30_both"]
    assert lanes.split(names) == [["00_start", "11_condu"], ["20_time", "24_time"]]
    assert lanes.split(["21_time", "30_both"]) == [["21_time"]]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_end_of_the_runner_is_the_end_of_both_lanes(toy, tmp_path, until, number):
    started = [tmp_path / "first", tmp_path / "second"]
    write(toy.folder, "10_long", LONG.format(started=str(started[0])))
    write(toy.folder, "20_long", LONG.format(started=str(started[1])))
    process = start(toy)
    until(lambda: all(path.exists() for path in started))
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert said.count("interrupted") == (number == signal.SIGINT)
    pids = [int(pid) for path in started for pid in path.read_text().split()]
    until(lambda: not any(map(runs, pids)))
    assert left() == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_half_written(toy, tmp_path, until, number):
    started = tmp_path / "started"
    write(toy.folder, "10_long", LONG.format(started=str(started)))
    process = start(toy)
    until(started.exists)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "interrupted: what was finished is kept" in said
    assert left() == []
    until(lambda: not any(map(runs, map(int, started.read_text().split()))))


def test_nothing_to_do_needs_no_torch():
    check = "import sys, clipmerge.book.run; sys.exit(bool({'torch', 'papermill', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
