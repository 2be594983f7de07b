"""The first call of every notebook: ``run = setup(profile, seed, out)``.

Seeds, threads, deterministic kernels, plotting style and output folder are settled here and nowhere else, so that a
notebook which starts with this line gives the same numbers in JupyterLab, under the runner and in the tests.

torch and matplotlib are imported inside functions: the runner, which needs neither, imports this package too.
"""

import logging
import os
import random
import time
from pathlib import Path

import numpy as np

from clipmerge import paths
from clipmerge.book.run_record import Run, facts
from clipmerge.errors import BadInput
from clipmerge.study import profiles
from clipmerge.study.cache import ledger

OVERRIDE = "CLIPMERGE_PROFILE"  # in the environment: the profile of every notebook, whatever its cells say


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
    _set_style()
    _log_to_stderr()
    folder = Path(out).expanduser().resolve() if out else paths.figures(chosen.name)
    folder.mkdir(parents=True, exist_ok=True)
    ledger.begin()
    device = devices.resolve(chosen.compute.device).type
    record = {"profile": chosen.name, "seed": seed, "device": device, **facts()}
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


def _set_style() -> None:
    import matplotlib as mpl
    import pandas as pd

    from clipmerge.book import figures

    mpl.rcParams.update(figures.STYLE)
    pd.set_option("display.max_colwidth", None)  # a claim is a sentence, and is read whole


def _log_to_stderr() -> None:
    """Let the step cache say on stderr, which stored notebooks drop, what it computes and why."""
    log = logging.getLogger("clipmerge")
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.INFO)
        log.propagate = False  # a kernel's root logger has a handler of its own
