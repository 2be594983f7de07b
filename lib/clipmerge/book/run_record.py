"""One run of a notebook: what it works with, and what the record of every figure and table says about it."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from clipmerge import files, paths
from clipmerge.study.cache import ledger
from clipmerge.study.profiles import Profile

LIBRARIES = ("clipmerge", "torch", "open_clip_torch", "numpy", "pandas", "matplotlib")


@dataclass(frozen=True)
class Run:
    """What a notebook works with: profile, seed, folder for figures, device, and the facts every artefact records."""

    profile: Profile
    seed: int
    out: Path
    device: str
    record: Mapping[str, object]
    started: float

    def cost(self) -> dict[str, float]:
        """Minutes that this run would have taken so far from an empty cache, peak memory (MB) of this process."""
        spent = ledger.cost()
        own = min(time.perf_counter() - self.started - spent["waited"], time.process_time() - spent["busy"])
        minutes = ledger.minutes(own, spent["steps"].values(), self.profile.compute.workers)
        return {"minutes": round(minutes, 2), "peak_mb": round(_peak_mb())}


def facts() -> dict[str, object]:
    """What the numbers depend on besides the code: library versions, data and weights by digest, cores, threads."""
    import torch  # not needed by the runner, which imports this module too

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
