"""One measurement of the benchmark, in a process that has imported no more than it needs.

`python -m clipmerge.bench.measure OPERATION IMPLEMENTATION N PLACE` prints seconds and peak MB as json. The files are
in the page cache before the clock starts; imports and compilation are over by then too.
"""

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from clipmerge.merge import streaming
from clipmerge.merge.preflight import workers
from clipmerge.merge.safefile import writing

CHUNK = 1 << 20


def measure(operation: str, implementation: str, count: int, place: Path) -> dict[str, float]:
    """Seconds and peak MB of one operation on `count` experts, in this process."""
    threads = workers(None)
    base = place / "base.safetensors"
    experts = [place / f"expert-{k:02}.safetensors" for k in range(1, count + 1)]
    with tempfile.TemporaryDirectory(dir=place) as folder:
        out = Path(folder, "out")
        earlier = Path(folder, "earlier")
        warm_up(Path(folder))
        if operation == "extend":
            streaming.unify(base, experts[:-1], earlier, threads=threads)
        read([base, *experts], threads)  # into the page cache
        start = time.perf_counter()
        perform(operation, implementation, base, experts, earlier, out, threads)
        settle(out)
        return {"seconds": round(time.perf_counter() - start, 6), "peak_mb": round(peak_mb(), 1)}


def perform(
    operation: str, implementation: str, base: Path, experts: Sequence[Path], earlier: Path, out: Path, threads: int
) -> None:
    """The operation itself: reads `base` and `experts` (``extend``: the last one, and the folder `earlier`)."""
    if implementation == "floor":
        read([base, *experts], threads)
        write(out, base.stat().st_size)
    elif implementation == "whole-dict":
        from clipmerge.bench import wholedict  # brings torch

        plain = getattr(wholedict, operation)
        plain(base, earlier, experts[-1], out) if operation == "extend" else plain(base, experts, out)
    elif operation == "unify":
        streaming.unify(base, experts, out, threads=threads)
    elif operation == "extend":
        streaming.extend(earlier, experts[-1], base, out, threads=threads)
    else:
        streaming.merge(operation, base, experts, out, threads=threads)


def warm_up(folder: Path) -> None:
    """Compile (or load) the fused loops on two numbers."""
    file = folder / "two.safetensors"
    with writing(file, {"w": ((2,), "float32")}) as put:
        put("w", 0, np.array([1.0, 2.0]))
    streaming.unify(file, [file], folder / "one", rescaler="none")
    streaming.extend(folder / "one", file, file, folder / "two", "second")
    for technique in ("ties", "average"):
        streaming.merge(technique, file, [file], folder / technique)


def read(sources: Sequence[Path], threads: int) -> None:
    """Read files once, `threads` at a time, and forget them."""

    def drain(path: Path) -> None:
        buffer = bytearray(CHUNK)
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(drain, sources))


def write(path: Path, size: int) -> None:
    """Write `size` bytes and wait for the disk."""
    chunk = bytes(CHUNK)
    with open(path, "wb", buffering=0) as file:
        for _ in range(size // CHUNK):
            file.write(chunk)
        os.fsync(file.fileno())


def settle(out: Path) -> None:
    """Wait for the disk, as streaming does itself: every clock stops when the result is safe."""
    for path in out.iterdir() if out.is_dir() else [out]:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


def peak_mb() -> float:
    """Peak resident memory of this process alone (getrusage, on Linux, would count the parent's before exec too)."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
