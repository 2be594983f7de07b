"""Small stand-ins for the real data sets, file by file as their sources lay them out."""

import io
import json
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from clipmerge.clip.data import external


def picture(seed: int, size: tuple[int, int] = (40, 30), kind: str = "JPEG") -> bytes:
    """An image file of noise (width × height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def put(path: Path, data: bytes | str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def aircraft(root: Path, labels: list[str]) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    put(data / "variants.txt", "\n".join(labels) + "\n")
    for side, first in (("train", 0), ("test", 50)):
        put(data / f"images_variant_{side}.txt", "".join(f"{first + i:07d} {x}\n" for i, x in enumerate(labels)))
        for i in range(len(labels)):
            put(data / f"images/{first + i:07d}.jpg", picture(first + i))


def dtd(root: Path, labels: list[str]) -> None:
    base = root / "dtd/dtd"
    for side, first in (("train", 0), ("test", 50)):
        put(base / f"labels/{side}1.txt", "".join(f"{x}/{x}_{first}.jpg\n" for x in labels))
        for i, x in enumerate(labels):
            put(base / f"images/{x}/{x}_{first}.jpg", picture(first + i))


def food(root: Path, labels: list[str]) -> None:
    base = root / "food-101"
    for side, first in (("train", 0), ("test", 50)):
        put(base / f"meta/{side}.json", json.dumps({x: [f"{x}/{first}"] for x in labels}))
        for i, x in enumerate(labels):
            put(base / f"images/{x}/{first}.jpg", picture(first + i))


def oxfordpet(root: Path, labels: list[str]) -> None:
    base = root / "oxford-iiit-pet"
    for side, first in (("trainval", 0), ("test", 50)):
        stems = [f"{x.replace(' ', '_')}_{first}" for x in labels]
        put(base / f"annotations/{side}.txt", "".join(f"{stem} {i + 1} 1 1\n" for i, stem in enumerate(stems)))
        for i, stem in enumerate(stems):
            put(base / f"images/{stem}.jpg", picture(first + i))


def stanfordcars(root: Path, labels: list[str]) -> None:
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    scipy.io.savemat(base / "devkit/cars_meta.mat", {"class_names": np.array(labels, dtype=object)})
    for side, place in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        first = 0 if side == "train" else 50
        names = [f"{first + i:05d}.jpg" for i in range(len(labels))]
        numbers = range(1, len(labels) + 1)
        annotations = np.array(list(zip(names, numbers, strict=True)), dtype=[("fname", object), ("class", object)])
        scipy.io.savemat(base / place, {"annotations": annotations})
        for i, name in enumerate(names):
            put(base / f"cars_{side}/{name}", picture(first + i))


def flowers(root: Path, labels: list[str]) -> None:
    base = root / "flowers-102"
    n = len(labels)
    base.mkdir(parents=True)
    scipy.io.savemat(base / "imagelabels.mat", {"labels": np.array([*range(1, n + 1), *range(1, n + 1)])})
    sides = {"trnid": np.arange(1, n + 1), "valid": np.array([1]), "tstid": np.arange(n + 1, 2 * n + 1)}
    scipy.io.savemat(base / "setid.mat", sides)
    for i in range(2 * n):
        put(base / f"jpg/image_{i + 1:05d}.jpg", picture(i if i < n else 50 + i - n))


def cifar100(root: Path, labels: list[str]) -> None:
    base = root / "cifar-100-python"
    put(base / "meta", pickle.dumps({"fine_label_names": labels}))
    for side, first in (("train", 0), ("test", 50)):
        pixels = np.random.default_rng(first).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        put(base / side, pickle.dumps({"data": pixels, "fine_labels": list(range(len(labels)))}))


def mnist(root: Path, labels: list[str]) -> None:
    n = len(labels)
    for side, seed in (("train", 0), ("t10k", 50)):
        pixels = np.random.default_rng(seed).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        images = struct.pack(">IIII", 2051, n, 28, 28) + pixels.tobytes()
        put(root / f"MNIST/raw/{side}-images-idx3-ubyte", images)
        put(root / f"MNIST/raw/{side}-labels-idx1-ubyte", struct.pack(">II", 2049, n) + bytes(range(n)))


def _per_class(folder: Path, labels: list[str], name: Callable[[str, int], str]) -> None:
    for i, label in enumerate(labels):
        for k in range(5):
            put(folder / name(label, k), picture(10 * i + k))


def caltech101(root: Path, labels: list[str]) -> None:
    folder = root / "caltech101/101_ObjectCategories"
    put(folder / "BACKGROUND_Google/image_0001.jpg", picture(999))
    _per_class(folder, labels, lambda label, k: f"{label}/image_{k + 1:04d}.jpg")


def eurosat(root: Path, labels: list[str]) -> None:
    _per_class(root / "eurosat/2750", labels, lambda label, k: f"{label}/{label}_{k + 1}.jpg")


def sun397(root: Path, labels: list[str]) -> None:
    put(root / "SUN397/ClassName.txt", "".join(f"/{x[0]}/{x}\n" for x in labels))
    _per_class(root / "SUN397", labels, lambda label, k: f"{label[0]}/{label}/sun_{k}.jpg")


def webdataset(root: Path, labels: int) -> None:
    """Two parts of two tars each, as clip-benchmark's."""
    for side, first in (("train", 0), ("test", 50)):
        (root / side).mkdir(parents=True, exist_ok=True)
        for part in range(2):
            with tarfile.open(root / side / f"{part}.tar", "w") as file:
                for i in range(part, labels, 2):
                    for suffix, data in (("cls", str(i).encode()), ("jpg", picture(first + i))):
                        member = tarfile.TarInfo(f"s{i:07d}.{suffix}")
                        member.size = len(data)
                        file.addfile(member, io.BytesIO(data))


TREES = {
    function.__name__: function
    for function in (
        *(aircraft, caltech101, cifar100, dtd, eurosat, flowers, food, mnist, oxfordpet, stanfordcars, sun397),
    )
}
assert sorted(TREES) == sorted(external.names())
