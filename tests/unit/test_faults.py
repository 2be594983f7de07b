"""Whatever goes wrong, the real command says it in one sentence, leaves nothing half-written and no input changed."""

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys

import pytest
import torch

from clipmerge import files
from clipmerge.cli import main

BIG = 600_000  # elements of a tensor: two chunks for merge and for unify
NAMES = ("base", "a", "b")


def command(*arguments, cwd, **more):
    return subprocess.Popen([sys.executable, "-m", "clipmerge.cli", *map(str, arguments)], cwd=cwd, text=True, **more)


def run(*arguments, cwd):
    with contextlib.chdir(cwd), contextlib.redirect_stderr(io.StringIO()) as said:
        return main([str(argument) for argument in arguments]), said.getvalue()


def state(seed, count=BIG):
    generator = torch.Generator().manual_seed(seed)
    return {"visual.w": torch.randn(count, generator=generator), "w": torch.randn(7, generator=generator)}


@pytest.fixture
def place(tmp_path):
    for seed, name in enumerate(NAMES):
        files.save_tensors(tmp_path / f"{name}.safetensors", state(seed))
    return tmp_path


def hashes(place):
    return {p.relative_to(place).as_posix(): files.sha256(p) for p in sorted(place.rglob("*")) if p.is_file()}


MERGE = "merge --technique ties --base base.safetensors --out out.safetensors a.safetensors b.safetensors"
UNIFY = "unify --base base.safetensors --out out.safetensors a.safetensors b.safetensors"


def edit(change):
    """Change the bytes of expert b."""

    def apply(place):
        path = place / "b.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return apply


def resaved(change):
    """Change the tensors of expert b."""

    def apply(place):
        weights = state(2)
        change(weights)
        files.save_tensors(place / "b.safetensors", weights)

    return apply


def overlap(data):
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["w"]["data_offsets"] = [0, 28]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def pickled(place):
    (place / "b.safetensors").unlink()
    torch.save(state(2), place / "b.safetensors")


def folder(place):
    (place / "b.safetensors").unlink()
    (place / "b.safetensors").mkdir()


FAULTS = {
    "truncated": (edit(lambda data: data[:-4]), "cut short"),
    "no bytes": (edit(lambda data: b""), "found another format"),
    "flipped byte of the header": (edit(lambda data: data[:9] + bytes([data[9] ^ 0x80]) + data[10:]), "b.safetensors"),
    "flipped to NaN": (edit(lambda data: data[:-4] + b"\xff\xff\xff\x7f"), "found NaN or Inf"),
    "huge header": (edit(lambda data: (1 << 60).to_bytes(8, "little") + data[8:]), "found another format"),
    "overlap": (edit(overlap), "overlap"),
    "NaN": (resaved(lambda s: s["w"][3:4].fill_(float("nan"))), "w should hold finite numbers"),
    "Inf": (resaved(lambda s: s["visual.w"][-1:].fill_(float("inf"))), "visual.w should hold finite numbers"),
    "shape": (resaved(lambda s: s.update(w=torch.ones(3))), "w is [3] float32, not [7] float32"),
    "missing": (resaved(lambda s: s.pop("w")), "missing w"),
    "extra": (resaved(lambda s: s.update(more=torch.ones(2))), "unexpected more"),
    "pickle": (pickled, "clipmerge convert"),
    "folder": (folder, "expected one safetensors file"),
    "absent": (lambda place: (place / "b.safetensors").unlink(), "found nothing there"),
    "dangling link": (lambda place: _link(place, "nowhere"), "found nothing there"),
}


def _link(place, target):
    (place / "b.safetensors").unlink()
    os.symlink(target, place / "b.safetensors")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_input_is_one_sentence(fault, place):
    spoil, words = FAULTS[fault]
    spoil(place)
    before = hashes(place)
    for text in (MERGE, UNIFY):
        code, said = run(*text.split(), cwd=place)
        assert code == 2 and words in said and said.startswith("clipmerge: ") and said.count("\n") == 1, said
        assert hashes(place) == before


def test_a_base_that_is_bad_is_named_as_the_base(place):
    weights = state(0)
    weights["w"][0] = float("nan")
    files.save_tensors(place / "base.safetensors", weights)
    for technique in ("ties", "task_arithmetic"):
        code, said = run(*MERGE.replace("ties", technique).split(), cwd=place)
        assert code == 2 and "the base: w should hold finite numbers" in said, said


@pytest.mark.parametrize("out", ["base.safetensors", "a.safetensors", "link.safetensors", "./x/../b.safetensors"])
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_an_input_is_never_replaced(out, force, place):
    (place / "x").mkdir()
    os.symlink("a.safetensors", place / "link.safetensors")
    before = hashes(place)
    code, said = run(*MERGE.replace("out.safetensors", out).split(), *force, cwd=place)
    assert code == 2 and "apart from all inputs" in said
    assert hashes(place) == before


def test_what_is_there_needs_force_and_is_kept_until_the_new_one_is_whole(place):
    (place / "out.safetensors").write_text("precious")
    code, said = run(*MERGE.split(), cwd=place)
    assert code == 2 and "--force replaces it" in said
    assert (place / "out.safetensors").read_text() == "precious"
    assert run(*MERGE.split(), "--force", cwd=place)[0] == 0
    whole = files.load_tensors(place / "out.safetensors")
    code, said = run(*MERGE.replace("b.safetensors", "absent.safetensors").split(), "--force", cwd=place)
    assert code == 2
    assert all(torch.equal(x, whole[n]) for n, x in files.load_tensors(place / "out.safetensors").items())
    unify = UNIFY.replace("out.safetensors", "u").split()
    assert run(*unify, cwd=place)[0] == 0
    first = hashes(place / "u")
    assert run(*unify, cwd=place)[0] == 2
    assert run(*unify, "--force", cwd=place)[0] == 0
    assert hashes(place / "u") == first and not [p for p in place.iterdir() if p.name.startswith(".")]


def test_links_and_names_beyond_ascii_are_welcome(place):
    (place / "a.safetensors").rename(place / "été 東京.safetensors")
    os.symlink("b.safetensors", place / "ссылка.safetensors")
    text = "unify --base base.safetensors --out".split()
    code, said = run(*text, "ü", "été 東京.safetensors", "ссылка.safetensors", cwd=place)
    assert code == 0, said
    assert [t["name"] for t in files.read_json(place / "ü" / "triggers.json")["tasks"]] == ["été 東京", "ссылка"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder_is_one_sentence(place):
    (place / "sealed").mkdir(mode=0o555)
    code, said = run(*MERGE.replace("out.saf", "sealed/out.saf").split(), cwd=place)
    assert code == 2 and "Permission denied" in said and said.count("\n") == 1


INJECTED = """
import os, signal, sys
from clipmerge.cli import main
fault, moment, *arguments = sys.argv[1:]
whole, calls = os.pwrite, []
def pwrite(handle, content, offset):
    calls.append(offset)
    if len(calls) == int(moment):
        if fault == "kill":
            whole(handle, content[: len(content) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError({"full": 28, "sealed": 30}[fault], os.strerror({"full": 28, "sealed": 30}[fault]))
    return whole(handle, content, offset)
os.pwrite = pwrite
sys.exit(main(arguments))
"""


@pytest.mark.parametrize("fault", ["full", "sealed"])
@pytest.mark.parametrize("text", [MERGE, UNIFY], ids=["merge", "unify"])
def test_a_disk_that_says_no_leaves_nothing(fault, text, place):
    before = hashes(place)
    done = subprocess.run(
        [sys.executable, "-c", INJECTED, fault, "3", *text.split()],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("clipmerge: "), done.stderr
    assert hashes(place) == before and sorted(p.name for p in place.iterdir()) == sorted(before)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_killed_at_twenty_moments_the_old_output_is_there_and_the_inputs_are_untouched(place):
    """The moments are writes, counted, so that no clock matters; half of the last write has happened."""
    draw = random.Random(0)
    assert run(*MERGE.split(), cwd=place)[0] == 0
    assert run(*UNIFY.replace("out.safetensors", "u").split(), cwd=place)[0] == 0
    before = hashes(place)
    for turn in range(20):
        text = MERGE if turn % 2 else UNIFY.replace("out.safetensors", "u")
        moment = str(draw.randint(1, 4 if turn % 2 else 12))
        arguments = [sys.executable, "-c", INJECTED, "kill", moment, *text.split(), "--force", "--threads", "1"]
        assert subprocess.run(arguments, cwd=place, check=False).returncode == -signal.SIGKILL
        left = hashes(place)
        assert {name: left[name] for name in before} == before
        assert all(name.startswith(".") for name in left.keys() - before.keys())
    assert run(*MERGE.split(), "--force", cwd=place)[0] == 0
    assert hashes(place)["out.safetensors"] == before["out.safetensors"]


@pytest.mark.parametrize("text", [MERGE, UNIFY], ids=["merge", "unify"])
def test_two_at_once_on_one_output_give_one_whole_output(text, place):
    pair = [command(*text.split(), cwd=place, stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=200)[1] for process in pair]
    codes = [process.returncode for process in pair]
    assert 0 in codes and set(codes) <= {0, 2}, said
    assert all(text.count("\n") == 1 for text, code in zip(said, codes, strict=True) if code)
    found = hashes(place)
    assert run(*text.replace("out.safetensors", "again").split(), cwd=place)[0] == 0
    again = hashes(place)
    assert {again[name] for name in again if name.startswith("again")} == {
        found[name] for name in found if name.startswith("out.")
    }
    assert not [name for name in again if name.startswith(".")]


QUICK = """
import resource, sys
from clipmerge.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
heavy = {"torch", "numpy", "numba", "open_clip"} & sys.modules.keys()
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]
print(sorted(heavy), int(peak) // 1024, file=sys.stderr)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory of one process is read from /proc")
@pytest.mark.parametrize("arguments", [["--help"], ["merge", "--help"], ["merge", "--technique", "tiess", "x"], ["x"]])
def test_help_and_mistakes_import_nothing_heavy(arguments):
    done = subprocess.run([sys.executable, "-c", QUICK, *arguments], capture_output=True, text=True, check=True)
    heavy, peak = done.stderr.splitlines()[-1].rsplit(" ", 1)
    assert heavy == "[]" and int(peak) < 60
