"""Notebooks on real sets: two fake ones of 224 pixels go headless through ConDU's protocol and TIME's grid."""

import os
import subprocess
import sys

import open_clip
import pytest
import yaml

from clipmerge import files, paths
from clipmerge.clip import models, published
from clipmerge.study import profiles

from ..unit.study import real_sets

LARGE = "ViT-B-16-quickgelu/openai"
TWO = {
    "extends": "smoke",
    "seeds": [0],
    "data": {"tasks": list(real_sets.SETS), "per_class_train": 1, "per_class_test": 1},
    "finetune": {"steps": 1, "batch": 2},
    "chain": {"steps": 1},
    "mtil": {"title": "two fake sets", "examples": [*real_sets.SETS]},
    "baselines": {"methods": ["rail"]},
    "inference": {"baselines": []},
    "temporal": {
        "title": "two fake sets",
        "adaptation": ["EuroSAT"],
        "heldout": ["MNIST"],
        "tasks": 3,
        "recipe": {"steps": 1, "batch": 2, "positives": "diagonal"},
        "mixtures": {"replay": None},
    },
}


ASKED = pytest.mark.skipif("CLIPMERGE_LARGE" not in os.environ, reason="hours or gigabytes: set CLIPMERGE_LARGE")


@pytest.fixture(params=["nano-xs", pytest.param(LARGE, marks=ASKED)])
def profile(request, tmp_path, monkeypatch):
    """A profile of the two sets, on a nano model or on a random ViT-B/16 that stands where a hub's client keeps it."""
    monkeypatch.setenv("CLIPMERGE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in real_sets.SETS.values():
        real_sets.pack(name, train=1, size=(224, 260))
    model = request.param
    if model == LARGE:
        repository = open_clip.get_pretrained_cfg(*model.split("/"))["hf_hub"].rstrip("/")
        folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        files.write_text(folder / "refs" / "main", "0123")
        random = models.state(models.create(model, pretrained=None))
        files.save_tensors(folder / "snapshots" / "0123" / published.FILES[0], random)
    named = {"model": model, "width_models": [model], "many": {"model": model}}
    tree = TWO | named | {"mtil": TWO["mtil"] | {"bases": [model]}}
    place = tmp_path / "two.yaml"
    place.write_text(yaml.safe_dump(tree), encoding="utf8")
    return place


def test_notebooks_take_everything_from_the_profile(profile, tmp_path):
    """Every cell runs, every declared figure is made, and captions say what was shown."""
    wanted = ["--profile", str(profile), "--only", "11", "23", "--out", str(tmp_path / "out"), "--one-by-one"]
    env = os.environ | {"CLIPMERGE_PROFILE": str(profile)}
    command = [sys.executable, "-m", "clipmerge.book.run", *wanted]
    ended = subprocess.run(command, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    made = list((tmp_path / "out").rglob("*.csv"))
    assert {"condu_table1", "time_grid"} <= {path.stem for path in made}
    said = "".join(path.read_text(encoding="utf8") for path in (tmp_path / "out").rglob("*.md"))
    assert "Pocket" not in said
    model = profiles.load(profile).model
    assert (paths.cache("weights").exists()) == (model == LARGE)
