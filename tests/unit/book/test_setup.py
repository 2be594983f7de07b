"""setup() settles seeds, threads, device, style and folder, and says what is wrong with its arguments."""

import json
import logging
import random
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
import torch

from clipmerge import paths
from clipmerge.book import setup
from clipmerge.clip import device
from clipmerge.clip.compute import Compute
from clipmerge.errors import BadInput
from clipmerge.study import profiles


@pytest.fixture(autouse=True)
def restored():
    """Put back what setup changes for the whole process."""
    log = logging.getLogger("clipmerge")
    handlers, level, threads = list(log.handlers), log.level, torch.get_num_threads()
    with mpl.rc_context():
        yield
    log.handlers, log.level = handlers, level
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def draws():
    return random.random(), np.random.random(), torch.rand(3).tolist()  # noqa: NPY002


def test_same_seed_same_draws(tmp_path):
    setup("smoke", 5, str(tmp_path))
    first = draws()
    setup("smoke", 5, str(tmp_path))
    assert draws() == first
    setup("smoke", 6, str(tmp_path))
    assert draws() != first


def test_run_says_what_it_works_with(tmp_path, monkeypatch):
    monkeypatch.delenv("CLIPMERGE_PROFILE")
    run = setup("laptop", 0, str(tmp_path / "new"))
    assert run.profile.name == "laptop" and run.seed == 0 and run.out.is_dir()
    assert torch.get_num_threads() == 1 and torch.are_deterministic_algorithms_enabled()
    assert mpl.rcParams["savefig.facecolor"] == "white"
    facts = json.loads(json.dumps(run.record))
    assert facts["profile"] == "laptop" and facts["threads"] == 1
    assert torch.__version__.startswith(facts["versions"]["torch"])
    assert run.profile.compute.device == "auto" and run.device == device.resolve("auto").type


def test_environment_overrides_the_profile(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPMERGE_PROFILE", "smoke")
    monkeypatch.setattr(paths, "figures", lambda profile: tmp_path / profile)
    assert setup("laptop").profile.name == "smoke"
    assert setup("laptop").out == tmp_path / "smoke"


def test_an_insisted_device_is_kept(tmp_path, monkeypatch):
    insists = replace(profiles.load("smoke"), compute=Compute("mps"))
    monkeypatch.setattr(profiles, "load", lambda name: insists)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert setup("smoke", 0, str(tmp_path)).device == "mps"


@pytest.mark.parametrize("seed", [-1, True])
def test_bad_seed(seed):
    with pytest.raises(BadInput, match="seed: expected a whole number"):
        setup("smoke", seed)


def test_bad_out_and_profile(monkeypatch):
    with pytest.raises(BadInput, match="out: expected a folder name without braces"):
        setup("smoke", 0, "a{b}")
    monkeypatch.setenv("CLIPMERGE_PROFILE", "huge")
    with pytest.raises(BadInput, match="found 'huge'"):
        setup("smoke")
