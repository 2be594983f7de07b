"""Two real data sets in small: packs of noise under the names of EuroSAT and MNIST, and a profile that studies them."""

from pathlib import Path

import numpy as np
import yaml

from clipmerge.clip.data import locks
from clipmerge.clip.data.images import Sample
from clipmerge.study import profiles

SETS = {"EuroSAT": "eurosat", "MNIST": "mnist"}


def pack(name: str, train: int = 2, test: int = 1, size: tuple[int, int] = (40, 50), seed: int = 0) -> None:
    """Pack so many noisy images of each of ten classes, of `size` (height, width)."""
    samples = [
        Sample(side, label, f"{side}{label}-{i}", _noise(size, (seed, label, i, side == "test")))
        for side, count in (("train", train), ("test", test))
        for label in range(10)
        for i in range(count)
    ]
    locks.pack({"name": name, "source": "noise", "revision": None}, samples, len(samples), lambda rows: rows)


def _noise(size: tuple[int, int], seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def profile(folder: Path, **more: object) -> profiles.Profile:
    """The smoke profile on the two sets."""
    text = {"extends": "smoke", "data": {"tasks": list(SETS)}, "finetune": {"batch": 4}, **more}
    (folder / "two.yaml").write_text(yaml.safe_dump(text), encoding="utf8")
    return profiles.load(folder / "two.yaml")
