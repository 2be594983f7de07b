"""Somebody's own images: a manifest's dataset, or a folder of class folders that is read a batch at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from clipmerge.clip import datasets, evaluate
from clipmerge.errors import BadInput

TEMPLATE = "a photo of a {}."  # for folders, which bring none
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
Batches = Callable[[int], Iterator[Tensor]]  # image size -> batches of uint8[b, h, w, 3]


@dataclass(frozen=True)
class Part:
    """Images, in batches whenever they are wanted, and their labels."""

    batches: Batches
    labels: Int64[Tensor, " n"]


@dataclass(frozen=True)
class Task:
    """What models are graded on; `train`, if there is any, gives the prototypes their image half."""

    name: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    test: Part
    train: Part | None


def task(reference: str) -> Task:
    """A dataset by its manifest's name, or a folder of class folders (or of `train` and `test`, which hold them)."""
    path = Path(reference)
    if not path.is_dir():
        data = datasets.load(reference)
        sides = ((data.train_images, data.train_labels), (data.test_images, data.test_labels))
        train, test = (Part(lambda size, x=images: iter(x.split(evaluate.BATCH)), y) for images, y in sides)
        return Task(data.name, data.classes, data.templates, test, train if len(train.labels) else None)
    side = path / "test" if (path / "test").is_dir() else path
    names = tuple(sorted(p.name for p in side.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not names:
        raise BadInput(f"{side}: expected a folder for every class, found none")
    learnt = path / "train"
    train = _part(learnt, names) if side != path and learnt.is_dir() else None
    return Task(path.resolve().name, tuple(n.replace("_", " ") for n in names), (TEMPLATE,), _part(side, names), train)


def _part(side: Path, names: Sequence[str]) -> Part:
    found = [
        (path, label)
        for label, name in enumerate(names)
        for path in sorted((side / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not found:
        raise BadInput(f"{side}: expected images ({', '.join(SUFFIXES)}) in its class folders, found none")

    def batches(size: int) -> Iterator[Tensor]:
        for start in range(0, len(found), evaluate.BATCH):
            yield torch.stack([_image(path, size) for path, _ in found[start : start + evaluate.BATCH]])

    return Part(batches, torch.tensor([label for _, label in found]))


def _image(path: Path, size: int) -> Tensor:
    """CLIP's own way: the shorter side to `size`, bicubic, and the middle of it. uint8[size, size, 3]."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError):
        raise BadInput(f"{path}: expected an image, found something else") from None
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    return torch.from_numpy(np.asarray(image).copy())
