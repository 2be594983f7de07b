"""Time and memory of merging against the number of experts, file to file (`streaming`) and the plain way (`wholedict`).

Experts are random numbers in the shapes of a CLIP. The plain version is left out where it would not fit into memory.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import open_clip
import pandas as pd
import psutil
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from clipmerge import files, paths
from clipmerge.bench import mergekit
from clipmerge.book import figures
from clipmerge.book.figures import BLACK, BLUE, RED, WIDTH
from clipmerge.book.setup import setup
from clipmerge.errors import BadInput
from clipmerge.merge import techniques

MODEL = "ViT-B-16"
OPERATIONS = ("unify", "extend", "ties", "average")  # drawn; of all other techniques the command alone is timed
REPEATS = 3  # the median is kept; the plain version and mergekit are slow, and measured once
FISHERS = "fishers.safetensors"
# Peak of the plain version in copies of the model, for n experts.
COPIES: dict[str, Callable[[int], float]] = {
    "unify": lambda n: 1.3 * n + 5,
    "extend": lambda n: 1.6 * n + 6,
    "ties": lambda n: 2.4 * n + 4,
    "average": lambda n: 1.0 * n + 3,
}
SLOW = {"ties": 4}  # most experts for the plain version, which sorts out each expert's largest values in turn
LOOKS = {
    "streaming": {"color": BLUE, "marker": "o", "linestyle": "-", "label": "file to file"},
    "whole-dict": {"color": RED, "marker": "s", "linestyle": "--", "label": "all in memory"},
    "floor": {"color": BLACK, "linestyle": ":", "label": "reading all and writing one"},
}


def run(model: str, counts: Sequence[int], plain: int, threads: int, out: str = "", theirs: str = "") -> str:
    """Measure all operations for every number of experts in `counts` and save `bench_merge`; returns its caption.

    `theirs` is mergekit's command, if it is to be measured too.
    """
    started = setup("laptop", 0, out)
    parent = paths.cache("bench")
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as place:
        size = write_models(model, max(counts), Path(place))
        rows = pd.DataFrame(list(measurements(counts, plain, size, Path(place), threads, theirs)))
    caption = note(rows, model, size, threads)
    name = "bench_merge" if model == MODEL else f"bench_merge_{model.lower().replace('-', '_')}"
    figures.save(draw(rows), name, rows, started, caption)
    return caption


def write_models(model: str, count: int, place: Path) -> int:
    """Write a base and `count` experts of random numbers in a model's shapes; returns the bytes of one."""
    config = open_clip.get_model_config(model)
    if config is None:
        raise BadInput(f"model: expected an open_clip configuration, found {model!r}")
    with torch.device("meta"):  # shapes only
        state = open_clip.model.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"]).state_dict()
    size = sum(tensor.numel() for tensor in state.values()) * torch.float32.itemsize
    if shutil.disk_usage(place).free < (count + 7) * size:
        raise BadInput(f"{place}: expected {(count + 7) * size / 1e9:.1f} GB of free disk, found less")
    generator = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
    base = {name: 0.02 * tensor for name, tensor in noise.items()}
    files.save_tensors(place / "base.safetensors", base)
    files.save_tensors(place / FISHERS, {name: tensor.square() for name, tensor in noise.items()})
    for k in range(1, count + 1):  # the same noise, shifted: different for every expert, and cheap
        expert = {name: tensor + 0.001 * noise[name].roll(7919 * k) for name, tensor in base.items()}
        files.save_tensors(place / f"expert-{k:02}.safetensors", expert)
    return size


def measurements(
    counts: Sequence[int], plain: int, size: int, place: Path, threads: int, theirs: str = ""
) -> Iterator[dict]:
    """All of them, as tidy rows; each leaves the folder as it was."""
    for count in counts:
        for operation, implementation in _wanted(count, plain, size, theirs):
            if implementation == "mergekit":
                experts = [place / f"expert-{k:02}.safetensors" for k in range(1, count + 1)]
                taken = mergekit.seconds(theirs, operation, place / "base.safetensors", experts, threads, place)
                values = {"process_seconds": round(taken, 3)}
            elif operation in (*OPERATIONS, "read-write"):
                again = 1 if implementation == "whole-dict" else REPEATS
                values = _median(again, _alone, operation, implementation, count, place, threads)
            else:
                values = {}
            if implementation == "streaming" and operation != "extend":  # which `clipmerge` has no command for
                values |= _median(REPEATS, _command, operation, count, place, threads)
            print(f"{operation:10} {implementation:10} n = {count:2} {values}", file=sys.stderr)
            names = {"method": implementation, "task": operation, "seed": None, "n": count, "source": "ours"}
            names |= {"operation": operation, "implementation": implementation, "experts": count}
            yield from ({**names, "metric": metric, "value": value} for metric, value in values.items())


def _wanted(count: int, plain: int, size: int, theirs: str) -> Iterator[tuple[str, str]]:
    """Operation and implementation of each measurement with `count` experts; what is plain must fit into memory."""
    yield "read-write", "floor"
    for operation in OPERATIONS:
        yield operation, "streaming"
        if theirs and operation in mergekit.METHODS and count <= plain:
            yield operation, "mergekit"
        most = min(plain, SLOW.get(operation, plain))
        if count <= most and COPIES[operation](count) * size < 0.8 * psutil.virtual_memory().available:
            yield operation, "whole-dict"
    for name in techniques.names():
        if name not in OPERATIONS and (count == 2 or not techniques.find(name).pair):
            yield name, "streaming"


def _median(times: int, measured: Callable[..., dict[str, float]], *arguments: object) -> dict[str, float]:
    """Each number's median over several measurements."""
    return pd.DataFrame([measured(*arguments) for _ in range(times)]).median().to_dict()


def _alone(operation: str, implementation: str, count: int, place: Path, threads: int) -> dict[str, float]:
    command = [sys.executable, "-m", "clipmerge.bench.measure", operation, implementation, str(count), str(place)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    said = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(said.splitlines()[-1])


def _command(operation: str, count: int, place: Path, threads: int) -> dict[str, float]:
    """Seconds of `clipmerge` as a whole process, start and imports included."""
    out, models = place / "command-out", [f"expert-{k:02}.safetensors" for k in range(1, count + 1)]
    words = ["unify"] if operation == "unify" else ["merge", "--technique", operation]
    if operation == "fisher":
        words += ["--fishers", *[FISHERS] * count]
    options = ["--base", "base.safetensors", "--out", out.name, "--threads", str(threads)]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "clipmerge.cli", *words, *options, *models], cwd=place, check=True)
    seconds = time.perf_counter() - start
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    return {"process_seconds": round(seconds, 3)}


def draw(rows: pd.DataFrame) -> Figure:
    """Seconds (above) and peak memory (below) against the number of experts, one column for each operation."""
    figure, axes = plt.subplots(2, len(OPERATIONS), figsize=(WIDTH, 4.2), sharex=True, sharey="row")
    counts = sorted(rows.n.unique())
    for metric, label, line in zip(("seconds", "peak_mb"), ("seconds", "peak memory (MB)"), axes, strict=True):
        for operation, axis in zip(OPERATIONS, line, strict=True):
            for implementation, look in LOOKS.items():
                shown = rows.operation.isin([operation, "read-write"]) & (rows.implementation == implementation)
                part = rows[shown & (rows.metric == metric)]
                if metric == "seconds" or implementation != "floor":  # the floor's memory says nothing
                    axis.plot(part.n, part.value, **look)
            axis.set(xscale="log", yscale="log")
            axis.set_xticks(counts, counts)
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.minorticks_off()
            axis.grid(axis="y", color="0.9")
        line[0].set_ylabel(label)
    for operation, above, below in zip(OPERATIONS, *axes, strict=True):
        above.set_title(operation)
        below.set_xlabel("experts")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def note(rows: pd.DataFrame, model: str, size: int, threads: int) -> str:
    """The caption: what was measured on what, and the aims' figures at eight experts (or the most there are)."""
    value = rows.set_index(["operation", "implementation", "n", "metric"]).value.to_dict()
    counts = sorted(rows.n.unique())
    n = 8 if 8 in counts else counts[-1]
    ours = value["unify", "streaming", n, "seconds"]
    floor = value["read-write", "floor", n, "seconds"]
    peaks = [value["unify", "streaming", count, "peak_mb"] for count in counts]
    said = [
        f"Merging n random experts shaped like {model} ({size / 4e6:.0f} M parameters, fp32), warm page cache, "
        f"{psutil.cpu_count()} cores, {threads} threads.",
        f"unify at n = {n}: {ours:.1f} s, {ours / floor:.1f} times the {floor:.1f} s of reading all and writing one,",
        f"peak {value['unify', 'streaming', n, 'peak_mb']:.0f} MB ({min(peaks):.0f} to {max(peaks):.0f} over all n);",
    ]
    process = value.get(("unify", "streaming", n, "process_seconds"))
    if process:
        said.append(f"as a whole process {process:.1f} s;")
    plain = value.get(("unify", "whole-dict", n, "seconds"))
    if plain:
        said.append(f"the whole-dict version takes {plain:.1f} s, {plain / ours:.1f} times as long.")
    for operation in mergekit.METHODS:
        other = value.get((operation, "mergekit", n, "process_seconds"))
        if other:
            own = value[operation, "streaming", n, "process_seconds"]
            said.append(f"{operation} as a whole process: {own:.1f} s, mergekit-pytorch {other:.1f} s.")
    return " ".join(said)
