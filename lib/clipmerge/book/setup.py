"""The first call of every notebook: ``run = setup(profile, seed, out)``.

Seeds, threads, deterministic kernels, plotting style and output folder are settled here and nowhere else, so that a
notebook which starts with this line gives the same numbers in JupyterLab, under the runner and in the tests.

torch and matplotlib are imported inside functions: the runner, which needs neither, imports this package too.
"""

import logging
import os
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil

from clipmerge import files, paths
from clipmerge.errors import BadInput
from clipmerge.study import profiles
from clipmerge.study.cache import ledger

OVERRIDE = "CLIPMERGE_PROFILE"
LIBRARIES = ("clipmerge", "torch", "open_clip_torch", "numpy", "pandas", "matplotlib")


@dataclass(frozen=True)
class Run:
    """What a notebook works with: profile, seed, folder for figures, device, and the facts every artefact records."""

    profile: profiles.Profile
    seed: int
    out: Path
    device: str
    record: Mapping[str, object]
    started: float

    def cost(self) -> dict[str, float]:
        """Minutes that this run would have taken so far from an empty cache, peak memory (MB) of this process."""
        spent = ledger.cost()
        own = min(time.perf_counter() - self.started - spent["waited"], time.process_time() - spent["busy"])
        minutes = ledger.minutes(own, spent["steps"].values(), self.profile.workers)
        return {"minutes": round(minutes, 2), "peak_mb": round(_peak_mb())}


def setup(profile: str = "laptop", seed: int = 0, out: str = "") -> Run:
    """Prepare this process for one notebook.

    `profile` names a profile (``CLIPMERGE_PROFILE`` in the environment wins, which is how tests run every notebook at
    toy scale); `out` is the folder for figures and tables, by default ``figures/<profile>``.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise BadInput(f"seed: expected a whole number from 0 up, found {seed!r}")
    if not isinstance(out, str) or "{" in out:
        raise BadInput(f"out: expected a folder name without braces, or '' for figures/<profile>; found {out!r}")
    from clipmerge.clip import device as devices

    chosen = profiles.load(os.environ.get(OVERRIDE) or profile)
    make_deterministic(seed)
    _style()
    _tell()
    folder = Path(out).expanduser().resolve() if out else paths.figures(chosen.name)
    folder.mkdir(parents=True, exist_ok=True)
    ledger.begin()
    device = devices.resolve(chosen.compute.device).type
    record = {"profile": chosen.name, "seed": seed, "device": device, **_facts()}
    return Run(chosen, seed, folder, device, record, time.perf_counter())


def make_deterministic(seed: int) -> None:
    """Seed every generator, use one thread (sums depend on their number) and deterministic kernels only."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, when CUDA starts
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  libraries that still draw from numpy's global generator
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)  # MPS lacks some of them


def _style() -> None:
    import matplotlib as mpl
    import pandas as pd

    from clipmerge.book.figures import STYLE  # which imports Run from here

    mpl.rcParams.update(STYLE)
    pd.set_option("display.max_colwidth", None)  # a claim is a sentence, and is read whole


def _tell() -> None:
    """Let the step cache say on stderr, which stored notebooks drop, what it computes and why."""
    log = logging.getLogger("clipmerge")
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.INFO)
        log.propagate = False  # a kernel's root logger has a handler of its own


def _facts() -> dict[str, object]:
    """What the numbers depend on besides the code: library versions, data and weights by digest, cores, threads."""
    import torch

    manifests = sorted(paths.manifests().glob("datasets/*.yaml"))
    weights = sorted(paths.manifests().rglob("*.safetensors"))
    python = ".".join(map(str, sys.version_info[:3]))
    return {
        "versions": {"python": python, **{name: version(name) for name in LIBRARIES}},
        "data": files.digest({path.stem: files.sha256(path) for path in manifests})[:16],
        "weights": {path.stem: files.sha256(path)[:16] for path in weights},
        "cores": psutil.cpu_count(logical=True),
        "threads": torch.get_num_threads(),
    }


def _peak_mb() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
