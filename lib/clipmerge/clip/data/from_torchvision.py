"""Images of a set that torchvision knows: it fetches, checks and lays out; what is read are its files as they are."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torchvision.datasets
from torch.utils.data import Dataset

from clipmerge.clip.data import packing
from clipmerge.clip.data.external import External, Source
from clipmerge.clip.data.images import Sample
from clipmerge.errors import BadInput


def fetch(source: Source, target: Path) -> Path:
    """Let torchvision download into the folder `target`, its root; it appears whole, so nothing half-unpacked is read.

    A download that was interrupted starts again: torchvision takes a folder for complete as soon as it is there.
    """
    if not target.exists():
        with packing.folder(target) as partial:
            for arguments in source.sides.values():
                _open(source, partial, arguments, download=True)
    return target


def samples(source: Source, manifest: External, root: Path) -> Iterator[Sample]:
    """Every image of every part, under the manifest's label numbers; `root` is torchvision's own root folder.

    CIFAR100 comes as a pickle: torchvision loads it after comparing its checksum with the one in its own code.
    """
    for side, arguments in source.sides.items():
        dataset = _open(source, root, arguments, download=False)
        names = list(getattr(dataset, "classes", None) or dataset.categories)
        numbers = [manifest.number(name) for name in names]
        for label, name, data in _images(dataset):
            yield Sample(side, numbers[label], name, data)


def _open(source: Source, root: Path, arguments: dict, download: bool) -> Dataset:
    kind = getattr(torchvision.datasets, source.dataset)
    try:
        return kind(root=root, download=download, **arguments)
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{source}: expected its files below {root}, found {reason!r}") from None


def _images(dataset: Dataset) -> Iterator[tuple[int, str, bytes | np.ndarray]]:
    """(torchvision's label, file name, content) of each image; arrays are named by their place."""
    if hasattr(dataset, "data"):  # CIFAR100, MNIST
        for i, (pixels, label) in enumerate(zip(dataset.data, dataset.targets, strict=True)):
            yield int(label), f"{i:06d}", np.asarray(pixels)
        return
    for label, path in _files(dataset):
        try:
            yield label, path.name, path.read_bytes()
        except FileNotFoundError:
            raise BadInput(f"{path}: expected an image that the lists of the set name, found none") from None


def _files(dataset: Dataset) -> Iterator[tuple[int, Path]]:
    if isinstance(dataset, torchvision.datasets.Caltech101):
        folder = Path(dataset.root) / "101_ObjectCategories"
        for label, number in zip(dataset.y, dataset.index, strict=True):
            yield label, folder / dataset.categories[label] / f"image_{number:04d}.jpg"
    elif isinstance(dataset, torchvision.datasets.OxfordIIITPet):  # it alone gives its paths nowhere else
        yield from zip(dataset._labels, map(Path, dataset._images), strict=True)
    else:
        dataset.loader = Path  # what `dataset[i]` is to make of a path
        for i in range(len(dataset)):
            path, label = dataset[i]
            yield label, path
