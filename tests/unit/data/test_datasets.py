"""The real datasets are what their manifests say, and train and test share nothing; the cache heals itself."""

import dataclasses
import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipmerge import files, paths
from clipmerge.clip import datasets, manifests
from clipmerge.errors import BadInput

from .data_wheels import NAMES


def test_the_protocol_order():
    tasks = "animals barcodes digits flags food icons kanji landcover letters solarcells surfaces"
    assert datasets.names("tasks") == tuple(tasks.split())
    assert datasets.names("extra") == ("scripts", "critters")
    assert datasets.names("heldout") == ("vehicles", "faces", "objects", "openmoji", "lucide")
    with pytest.raises(BadInput, match="expected one of tasks, extra, heldout, found 'all'"):
        datasets.names("all")


@pytest.mark.parametrize("name", NAMES)
def test_the_images_are_those_of_the_manifest(prepared, name):
    data, manifest = prepared[name], manifests.load(name)
    arrays = {key: getattr(data, key) for key in ("train_images", "train_labels", "test_images", "test_labels")}
    if manifest.web:
        arrays |= dict(zip(("web_images", "web_labels"), datasets.web(name), strict=True))
    decoded = files.load_tensors(paths.cache("datasets", f"{name}-{manifest.digest[:12]}.safetensors"))
    assert datasets.array_digest(decoded) == manifest.digest
    assert torch.equal(data.test_images, decoded["test_images"])
    whole = torch.cat([data.train_images, arrays["web_images"]] if manifest.every else [data.train_images])
    assert len(datasets.overlap(decoded["train_images"], whole)) == len(decoded["train_images"]) == len(whole)
    for side, count in manifest.counts.items():
        assert arrays[f"{side}_images"].shape == (count, 32, 32, 3)
        assert arrays[f"{side}_images"].dtype == torch.uint8
        assert arrays[f"{side}_labels"].shape == (count,)
    every = torch.arange(len(manifest.classes))
    assert torch.equal(data.test_labels.unique(), every)
    assert torch.equal(data.train_labels.unique(), every if manifest.group != "heldout" else every[:0])
    assert data.classes == manifest.classes and data.templates == manifest.templates
    assert (data.test_images.flatten(1).float().std(1) > 0).float().mean() > 0.95, "hardly any image is blank"


@pytest.mark.parametrize("name", NAMES)
def test_no_test_image_is_trained_on_anywhere(prepared, name):
    test = prepared[name].test_images
    for other, data in prepared.items():
        assert len(datasets.overlap(test, data.train_images)) == 0, f"images of {name} train in {other}"
    if manifests.load(name).mirrors:
        assert len(datasets.overlap(test.flip(2), prepared[name].train_images)) == 0


@pytest.mark.parametrize("name", NAMES)
def test_no_picture_is_counted_twice(prepared, name):
    """Neither twice in a test set, nor under two labels."""
    images = [image.tobytes() for image in prepared[name].test_images.numpy()]
    assert len(set(images)) == len(images)


def test_the_test_sets_are_different_sets(prepared):
    owner = {}
    for name, data in prepared.items():
        for image in data.test_images.numpy():
            assert owner.setdefault(image.tobytes(), name) == name


def test_a_mirrored_animal_stays_near_its_twin(prepared):
    """The split rule of Animals, measured: no test silhouette has a near-duplicate of its class in train."""
    data = prepared["animals"]
    for label in range(2):
        train = data.train_images[data.train_labels == label][..., 0].flatten(1).float() / 255
        test = data.test_images[data.test_labels == label][..., 0].float() / 255
        for version in (test, test.flip(2)):
            # 28 pixels became 32: distances grew by (32/28)², and smoothing took some of that away again
            assert torch.cdist(version.flatten(1), train).min() ** 2 > 9 * 0.9


# From here on, a dataset small enough to decode in a moment.


@pytest.fixture
def tiny(cache, monkeypatch):
    """Six barcodes under a manifest of their own; returns it."""
    real = manifests.load("barcodes")
    rules = {name: real.options["symbologies"][name] for name in ("Aztec", "EAN-8")}
    options = {**real.options, "symbologies": rules, "train_per_class": 2, "test_per_class": 1}
    manifest = dataclasses.replace(real, name="tiny", options=options, classes=tuple(rules))
    manifest = dataclasses.replace(manifest, counts={"train": 4, "test": 2})
    manifest = dataclasses.replace(manifest, digest=datasets.array_digest(datasets.decode(manifest)))
    monkeypatch.setattr(manifests, "load", lambda name: manifest)
    return manifest


def cached(cache):
    return sorted((cache / "datasets").glob("*"))


def test_a_dataset_is_decoded_when_first_asked_for(tiny, cache, monkeypatch):
    data = datasets.load("tiny")
    assert data.train_labels.tolist() == [0, 0, 1, 1] and data.test_labels.tolist() == [0, 1]
    assert [path.name for path in cached(cache)] == [f"tiny-{tiny.digest[:12]}.safetensors"]
    datasets._arrays.cache_clear()
    monkeypatch.setattr(datasets, "decode", lambda manifest: pytest.fail("decoded twice"))
    assert torch.equal(datasets.load("tiny").test_images, data.test_images)


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:-9] + b"123456789", lambda b: b""])
def test_a_damaged_cache_is_decoded_again_with_a_word(tiny, cache, damage):
    data = datasets.load("tiny")
    (path,) = cached(cache)
    path.write_bytes(damage(path.read_bytes()))
    datasets._arrays.cache_clear()
    with pytest.warns(UserWarning, match=rf"{path.name}: damaged .*; decoding tiny again"):
        again = datasets.load("tiny")
    assert torch.equal(again.train_images, data.train_images)
    datasets._arrays.cache_clear()
    datasets.load("tiny")  # no warning: it is whole again


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"digest": "0" * 64}, "tiny: expected decoded arrays with digest 0000.*, found [0-9a-f]{64}; the versions of"),
        ({"counts": {"train": 5, "test": 2}}, "expected {'train': 5, 'test': 2} images, decoded {'train': 4"),
        ({"classes": ("Aztec", "QR Code")}, r"only in the manifest: \['QR Code'\]; only decoded: \['EAN-8'\]"),
    ],
)
def test_arrays_that_are_not_the_manifest_s_are_refused(tiny, cache, monkeypatch, change, said):
    monkeypatch.setattr(manifests, "load", lambda name: dataclasses.replace(tiny, **change))
    with pytest.raises(BadInput, match=said):
        datasets.load("tiny")
    assert cached(cache) == []


def test_an_interrupted_save_leaves_nothing(tiny, cache, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        datasets.load("tiny")
    assert cached(cache) == []


def test_a_train_image_that_equals_a_mirrored_test_image_is_dropped(tiny, monkeypatch):
    arrays = datasets.decode(tiny)
    image = arrays["test_images"][0].numpy()

    def symbologies(manifest):
        other = image.copy()
        other[0, 0] ^= 1
        return datasets.Decoded(tiny.classes, [(image[:, ::-1], 1), (image, 0), (other, 0), (other, 0)], [(image, 0)])

    monkeypatch.setattr("clipmerge.clip.sources.barcodes.symbologies", symbologies)
    assert len(datasets.decode(tiny)["train_labels"]) == 2
    assert len(datasets.decode(dataclasses.replace(tiny, mirrors=True))["train_labels"]) == 1


def synthetic(per_class: list[int]) -> datasets.Dataset:
    """A dataset with so many train images of every class, in mixed order, and two test images of each."""
    labels = torch.tensor([label for label, n in enumerate(per_class) for _ in range(n)], dtype=torch.int64)
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    images = torch.arange(len(labels)).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 32, 32, 3).contiguous()
    classes = tuple(map(str, range(len(per_class))))
    test = torch.arange(len(per_class)).repeat(2)
    return datasets.Dataset(
        "s", "S", classes, ("a {}",), images, labels, torch.zeros(len(test), 32, 32, 3, dtype=torch.uint8), test
    )


@given(
    per_class=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_validation_split_is_a_stratified_partition(per_class, fraction, seed):
    data = synthetic(per_class)
    fit, val = datasets.validation_split(data, fraction, seed)
    assert sorted(torch.cat([fit, val]).tolist()) == list(range(len(data.train_labels)))
    for label, n in enumerate(per_class):
        held = int((data.train_labels[val] == label).sum())
        assert held == 0 if n < 2 else 1 <= held <= n - 1 and abs(held - fraction * n) <= 1
    again = datasets.validation_split(data, fraction, seed)
    assert torch.equal(fit, again[0]) and torch.equal(val, again[1])


def test_validation_split_depends_on_the_seed_and_refuses_nonsense():
    data = synthetic([40, 40])
    assert not torch.equal(datasets.validation_split(data, 0.5, 0)[1], datasets.validation_split(data, 0.5, 1)[1])
    for fraction in (0.0, 1.0, -0.1):
        with pytest.raises(BadInput, match="fraction: expected a number between 0 and 1"):
            datasets.validation_split(data, fraction)


def test_limit_takes_some_of_every_class_spread_evenly():
    data = synthetic([5, 1, 3])
    small = datasets.limit(data, per_class_train=2, per_class_test=1)
    assert torch.bincount(small.train_labels).tolist() == [2, 1, 2] and small.test_labels.tolist() == [0, 1, 2]
    first = (data.train_labels == 2).nonzero().squeeze(1)[:2]
    assert torch.equal(small.train_images[small.train_labels == 2], data.train_images[first])
    spread = data.train_images[(data.train_labels == 0).nonzero().squeeze(1)[[0, 2]]]
    assert torch.equal(small.train_images[small.train_labels == 0], spread)
    with pytest.raises(BadInput, match="images per class: expected at least 1, found 0"):
        datasets.limit(data, 0, 1)


def test_limit_none_keeps_everything():
    data = synthetic([5, 1, 3])
    everything, few_test = datasets.limit(data, None, None), datasets.limit(data, None, 1)
    assert all(torch.equal(getattr(everything, side), getattr(data, side)) for side in ("train_labels", "test_labels"))
    assert torch.equal(everything.train_images, data.train_images)
    assert torch.equal(few_test.train_labels, data.train_labels) and few_test.test_labels.tolist() == [0, 1, 2]


def test_limit_of_a_held_out_set_keeps_its_train_part_empty(prepared):
    small = datasets.limit(prepared["lucide"], 3, 1)
    assert small.train_images.shape == (0, 32, 32, 3) and len(small.test_labels) == len(small.classes)


def test_overlap_finds_exact_copies_only():
    images = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    others = images[[4, 1]].clone()
    others[0, 0, 0, 0] ^= 1
    assert datasets.overlap(images, others).tolist() == [1]
    assert datasets.overlap(images[:0], images).tolist() == []


def test_the_digest_sees_names_shapes_and_bytes():
    a = {"x": torch.arange(6, dtype=torch.uint8)}
    assert datasets.array_digest(a) == hashlib.sha256(b"x(6,)" + bytes(range(6))).hexdigest()
    assert len({datasets.array_digest(b) for b in (a, {"y": a["x"]}, {"x": a["x"].view(2, 3)}, {"x": a["x"] + 1})}) == 4
