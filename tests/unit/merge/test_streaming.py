"""File to file: the same bits as in memory, bounded memory, whole files or none, bad files refused by name."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from clipmerge import files
from clipmerge.errors import BadInput
from clipmerge.merge import condu, delta, deltas, ema, folder, safefile, streaming, techniques
from clipmerge.merge.lines import Lines
from clipmerge.merge.pieces import BLOCK

from .merge_states import model, same

BIG = 2 * BLOCK + 77  # a tensor of three blocks, the last one awkward


def big(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return model(seed, dtype=dtype) | {"visual.resblocks.0.w": torch.randn(BIG, generator=generator).to(dtype)}


def saved(folder, name, state, meta=None):
    files.save_tensors(folder / f"{name}.safetensors", state, meta)
    return folder / f"{name}.safetensors"


@pytest.fixture
def models(tmp_path):
    states = {"base": big(0), "a": big(1), "b": big(2), "c": big(3)}
    return states, {name: saved(tmp_path, name, state) for name, state in states.items()}


def contents(place):
    return {path.name: path.read_bytes() for path in sorted(place.iterdir())}


@pytest.mark.parametrize("name", techniques.names())
@pytest.mark.parametrize(("threads", "backend"), [(1, "mmap"), (2, "pread")])
def test_merging_files_equals_merging_in_memory(name, threads, backend, models, tmp_path):
    states, paths = models
    chosen = ("a", "b") if techniques.find(name).pair else ("a", "b", "c")
    options, fishers = {}, None
    if name == "emr":
        options = {"task": 1}
    if name == "fisher":
        fishers = [{n: x.abs() for n, x in states[k].items()} for k in chosen]
        options = {"fishers": [saved(tmp_path, f"f{k}", f) for k, f in zip(chosen, fishers, strict=True)]}
    expected = techniques.merge(
        name, [states[k] for k in chosen], states["base"], seed=7, **options | ({"fishers": fishers} if fishers else {})
    )
    out = streaming.merge(
        name, paths["base"], [paths[k] for k in chosen], tmp_path / "m.safetensors", seed=7, threads=threads,
        backend=backend, **options,
    )  # fmt: skip
    assert same(files.load_tensors(out), expected)


@pytest.mark.parametrize("per", ["tower", "tensor"])
def test_modifiers_stream_too(per, models, tmp_path):
    states, paths = models
    how = {"keep": 0.3, "per": per, "lines": Lines(shape="sqrt")}
    expected = techniques.merge("ties", [states["a"], states["b"]], states["base"], **how)
    out = streaming.merge("ties", paths["base"], [paths["a"], paths["b"]], tmp_path / "m.safetensors", threads=2, **how)
    assert same(files.load_tensors(out), expected)


@pytest.mark.parametrize(("name", "weight"), [("average", 0.3), ("slerp", None), ("ties", None)])
def test_folds_stream_too(name, weight, models, tmp_path):
    states, paths = models
    expected = ema.fold(name, [states[k] for k in "abc"], states["base"], weight)
    out = streaming.fold(name, paths["base"], [paths[k] for k in "abc"], tmp_path / "out" / "m.safetensors", weight)
    assert same(files.load_tensors(out), expected)
    assert [p.name for p in out.parent.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_condu_streams_bit_for_bit(dtype, tmp_path):
    base, experts = big(0, dtype), {k: big(s, dtype) for s, k in enumerate("abcd", start=1)}
    paths = {k: saved(tmp_path, k, e) for k, e in (experts | {"base": base}).items()}
    deltas = {k: delta(e, base) for k, e in experts.items()}

    expected = condu.extend(condu.unify([deltas[k] for k in "abc"], "global_l1", names="abc"), deltas["d"], "late")
    first = streaming.unify(paths["base"], [paths[k] for k in "abc"], tmp_path / "u3", "global_l1", threads=2)
    second = streaming.extend(first, paths["d"], paths["base"], tmp_path / "u4", "late", threads=2, backend="mmap")
    assert contents(second) == contents(folder.save(expected, tmp_path / "kept"))
    assert sorted(contents(second)) == [*(folder.masks(k) for k in range(4)), "triggers.json", "unified.safetensors"]

    loaded = folder.load(second)
    assert same(loaded.delta, expected.delta) and [t.name for t in loaded.triggers] == ["a", "b", "c", "late"]
    assert same(condu.decouple(loaded, "late"), condu.decouple(expected, "late"))

    one = streaming.decouple(second, "b", tmp_path / "b-delta.safetensors")
    assert same(files.load_tensors(one), condu.decouple(expected, 1))
    whole = streaming.decouple(second, 1, tmp_path / "b-model.safetensors", paths["base"])
    rebuilt = condu.decouple(expected, 1)
    assert same(
        files.load_tensors(whole), {n: (base[n] + rebuilt[n]).to(dtype) if n in rebuilt else base[n] for n in base}
    )


def test_threads_and_repetition_do_not_change_a_byte(models, tmp_path):
    _, paths = models
    experts = [paths[k] for k in "abc"]
    runs = [streaming.unify(paths["base"], experts, tmp_path / f"u{i}", threads=t) for i, t in enumerate((1, 2, 2))]
    assert contents(runs[0]) == contents(runs[1]) == contents(runs[2])
    merged = [
        streaming.merge("dare_ties", paths["base"], experts, tmp_path / f"m{t}", threads=t).read_bytes() for t in (1, 2)
    ]
    assert merged[0] == merged[1]


def test_our_files_are_safetensors_and_carry_meta(tmp_path):
    state = model(1) | {"half": torch.ones(3, dtype=torch.bfloat16), "flag": torch.tensor([True, False])}
    layout = deltas.layout(state)
    with safefile.writing(tmp_path / "x.safetensors", layout, {"note": "é"}) as put:
        for name, tensor in state.items():
            wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
            put(name, 0, wide.reshape(-1).numpy())
    assert same(files.load_tensors(tmp_path / "x.safetensors"), state)
    assert files.load_meta(tmp_path / "x.safetensors") == {"note": "é"}
    assert safefile.header(tmp_path / "x.safetensors").layout == layout
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


def test_tied_tensors_listed_in_meta_are_merged_once(tmp_path):
    states = [model(k) for k in range(3)]
    paths = [
        saved(tmp_path, str(k), s | {"head": s["c"].clone()}, {"tied": {"head": "c"}}) for k, s in enumerate(states)
    ]
    out = files.load_tensors(streaming.merge("dare_ties", paths[0], paths[1:], tmp_path / "m.safetensors"))
    assert torch.equal(out["head"], out["c"])
    assert torch.equal(out["c"], techniques.merge("dare_ties", states[1:], states[0])["c"])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: s.pop("c"), "bad.safetensors: missing c; unexpected nothing"),
        (lambda s: s.update(extra=torch.ones(1)), "bad.safetensors: missing nothing; unexpected extra"),
        (lambda s: s.update(c=torch.ones(3)), r"bad.safetensors: c is \[3\] float32, not \[17\] float32"),
        (lambda s: s.update(c=s["c"].double()), r"bad.safetensors: c is \[17\] float64, not \[17\] float32"),
        (lambda s: s.update(positions=torch.arange(5) + 1), "bad.safetensors: positions .* not merged"),
        (lambda s: s["d"].view(-1)[3:4].fill_(float("nan")), "d should hold finite numbers"),
    ],
)
def test_bad_experts_are_named_and_leave_nothing(spoil, words, models, tmp_path):
    states, paths = models
    bad = {name: tensor.clone() for name, tensor in states["a"].items()}
    spoil(bad)
    experts = [paths["b"], saved(tmp_path, "bad", bad)]
    before = sorted(p.name for p in tmp_path.iterdir())
    for attempt in (
        lambda: streaming.merge("average", paths["base"], experts, tmp_path / "m.safetensors", threads=2),
        lambda: streaming.unify(paths["base"], experts, tmp_path / "u", threads=2),
    ):
        with pytest.raises(BadInput, match=words):
            attempt()
        assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-4], "cut short"),
        (lambda data: data[:40], "found another format"),
        (lambda data: b"PK\x03\x04" + data, "found another format.*clipmerge convert"),
        (lambda data: data.replace(b"data_offsets", b"data_offsetz", 1), "damaged header"),
        (lambda data: data.replace(b'"F32"', b'"C64"', 1), "found C64"),
    ],
)
def test_damaged_files_are_one_sentence(damage, words, models, tmp_path):
    _, paths = models
    paths["a"].write_bytes(damage(paths["a"].read_bytes()))
    with pytest.raises(BadInput, match=f"a.safetensors: .*{words}"):
        streaming.merge("average", paths["base"], [paths["a"]], tmp_path / "m.safetensors")


def test_what_cannot_work_is_refused_before_it_starts(models, tmp_path, monkeypatch):
    _, paths = models
    base, experts, out = paths["base"], [paths["a"], paths["b"]], tmp_path / "u"
    with pytest.raises(BadInput, match="memory_budget_mb: expected at least .* found 1$"):
        streaming.unify(base, experts, out, memory_budget_mb=1)
    with pytest.raises(BadInput, match="found nothing there"):
        streaming.unify(base, [tmp_path / "none.safetensors"], out)
    with pytest.raises(BadInput, match="at least one file"):
        streaming.unify(base, [], out)
    with pytest.raises(BadInput, match="2 different names, found a, a"):
        streaming.unify(base, [paths["a"], paths["a"]], out)
    with pytest.raises(BadInput, match="threads: expected a number from 1, found -1"):
        streaming.unify(base, experts, out, threads=-1)
    with pytest.raises(BadInput, match="backend: .*'dma'"):
        streaming.unify(base, experts, out, backend="dma")
    streaming.unify(base, experts, out)
    with pytest.raises(BadInput, match="--force replaces it"):
        streaming.unify(base, experts, out)
    with pytest.raises(BadInput, match="no triggers.json"):
        streaming.decouple(tmp_path, "a", tmp_path / "d.safetensors")
    with pytest.raises(BadInput, match="task: expected one of a, b"):
        streaming.decouple(out, "c", tmp_path / "d.safetensors")
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=10))
    with pytest.raises(BadInput, match="of free disk"):
        streaming.merge("average", base, experts, tmp_path / "m.safetensors")


def test_preflight_reads_headers_only(models, tmp_path, monkeypatch):
    _, paths = models

    def refuse(*_):
        raise OSError("a tensor is read")

    monkeypatch.setattr(os, "preadv", refuse)
    inputs = "average", paths["base"], [paths["a"]] * 20, tmp_path / "m.safetensors"
    with pytest.raises(BadInput, match="memory_budget_mb"):
        streaming.merge(*inputs, memory_budget_mb=1)
    with pytest.raises(OSError, match="a tensor is read"):
        streaming.merge(*inputs)


@pytest.mark.parametrize("operation", ["unify", "merge"])
def test_a_full_disk_leaves_no_partial_file(operation, models, tmp_path, monkeypatch):
    _, paths = models
    before = sorted(p.name for p in tmp_path.iterdir())
    calls = []

    def full(handle, content, offset):
        calls.append(offset)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        return len(content)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        run(operation, paths["base"], [paths["a"], paths["b"]], tmp_path / "out.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def run(operation, base, experts, out):
    if operation == "unify":
        return streaming.unify(base, experts, out, threads=2)
    return streaming.merge("average", base, experts, out, threads=2)


KILLED = """
import os, signal, sys
from clipmerge.merge import streaming
operation, base, out, *experts = sys.argv[1:]
whole, written = os.pwrite, []
def pwrite(handle, content, offset):
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(offset)
    return whole(handle, content, offset)
os.pwrite = pwrite
if operation == "unify":
    streaming.unify(base, experts, out, threads=1)
else:
    streaming.merge("average", base, experts, out, threads=1)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("operation", ["unify", "merge"])
def test_a_killed_run_leaves_nothing_that_looks_whole_and_can_be_repeated(operation, models, tmp_path):
    _, paths = models
    place, experts = tmp_path / "place", [paths["a"], paths["b"]]
    place.mkdir()
    out = place / "out.safetensors"
    child = subprocess.run([sys.executable, "-c", KILLED, operation, paths["base"], out, *experts], check=False)
    assert child.returncode == -signal.SIGKILL
    left = [p.name for p in place.iterdir()]
    assert len(left) == 1 and left[0].startswith(".out.safetensors.") and ".partial" in left[0]
    again = run(operation, paths["base"], experts, out)
    elsewhere = run(operation, paths["base"], experts, tmp_path / "elsewhere.safetensors")
    read = contents if operation == "unify" else (lambda path: path.read_bytes())
    assert read(again) == read(elsewhere)


def test_a_short_write_is_continued(models, tmp_path, monkeypatch):
    states, paths = models
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, content, offset: whole(handle, content[:1000], offset))
    out = streaming.merge("average", paths["base"], [paths["a"]], tmp_path / "m.safetensors")
    assert same(files.load_tensors(out), states["a"])


PEAK = """
import sys
from clipmerge.merge import streaming
base, out, *experts = sys.argv[1:]
streaming.unify(base, experts, out, threads=1)
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


LIGHT = """
import sys
from clipmerge.merge import streaming
technique, base, out, *experts = sys.argv[1:]
streaming.merge(technique, base, experts, out)
print({"numba", "torch"} & sys.modules.keys())
"""


@pytest.mark.parametrize("technique", ["average", "task_arithmetic", "magmax", "tall_mask"])
def test_what_numpy_does_imports_no_compiler(technique, models, tmp_path):
    command = [sys.executable, "-c", LIGHT, technique, models[1]["base"], tmp_path / "out", models[1]["a"]]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory of one process is read from /proc")
def test_memory_does_not_grow_with_the_number_of_experts(tmp_path):
    paths = [
        saved(tmp_path, str(k), {"w": torch.randn(4_000_000, generator=torch.Generator().manual_seed(k))})
        for k in range(9)
    ]

    def peak(count):
        command = [sys.executable, "-c", PEAK, paths[0], tmp_path / f"u{count}", *paths[1 : 1 + count]]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024

    two, eight = peak(2), peak(8)
    assert eight - two < 8  # MB; one expert's tensor is 16 MB, the six more experts together 96


def test_progress_ends_at_the_total(models, tmp_path):
    _, paths = models
    seen = []
    streaming.merge(
        "ties", paths["base"], [paths["a"]], tmp_path / "m.safetensors", progress=lambda *at: seen.append(at)
    )
    assert seen[-1][0] == seen[-1][1] == 4 * sum(x.numel() for x in big(0).values() if x.is_floating_point())
    assert seen == sorted(seen)
