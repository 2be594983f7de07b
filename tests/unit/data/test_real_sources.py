"""Every kind of source, laid out small: what is packed are the files, under the right names, on the right side."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import torchvision.datasets

from clipmerge.clip.data import external, images, locks, packs, prepare, splits
from clipmerge.errors import BadInput

from .real_trees import TREES, picture, put, webdataset

FIXED = {"mnist": 10, "flowers": 102}  # classes that torchvision has in its code
PER_CLASS = 5


@pytest.fixture
def tiny(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], external.External]:
    """A manifest cut down to the first four classes (or all that torchvision insists on), as `load` gives it."""

    def make(name: str, **changes: object) -> external.External:
        whole = external.load(name)
        labels = list(whole.classes)[: FIXED.get(name, 4)]
        n = len(labels)
        counts, split = {"train": n, "test": n}, whole.split
        if split.seeded:
            counts = {"train": int(0.8 * PER_CLASS * n), "test": PER_CLASS * n - int(0.8 * PER_CLASS * n)}
            test = splits.positions(PER_CLASS * n, split.train, split.seed)[1]
            split = dataclasses.replace(split, digest=splits.digest(test))
        classes = {label: whole.classes[label] for label in labels}
        values = {"counts": counts, "split": split, "classes": classes, "mb": 1, **changes}
        small = dataclasses.replace(whole, **values)
        monkeypatch.setattr(external, "load", lambda asked: small)
        return small

    return make


@pytest.fixture(autouse=True)
def no_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision compares some files with the real ones' md5, which stand-ins cannot have."""
    cifar, flowers = torchvision.datasets.CIFAR100, torchvision.datasets.Flowers102
    monkeypatch.setattr(cifar, "train_list", [["train", None]])
    monkeypatch.setattr(cifar, "test_list", [["test", None]])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": None})
    monkeypatch.setattr(flowers, "_file_dict", {key: (file, None) for key, (file, _) in flowers._file_dict.items()})


@pytest.mark.parametrize("name", TREES)
def test_torchvision_layouts(name: str, tiny: Callable, tmp_path: Path) -> None:
    manifest = tiny(name)
    root = tmp_path / "mine"
    TREES[name](root, list(manifest.classes))
    lock = prepare.place(name, root)
    pack = locks.load(name)
    assert lock == locks.check(name)
    assert lock["source"].startswith("torchvision")
    assert (len(pack.train), len(pack.test)) == (manifest.counts["train"], manifest.counts["test"])
    assert set(pack.train.labels.tolist()) == set(range(len(manifest.classes)))
    assert not pack.train.texts(torch.tensor([0]))[0]


def test_files_are_packed_as_they_are_under_their_label(tiny: Callable, tmp_path: Path) -> None:
    manifest = tiny("aircraft")
    TREES["aircraft"](tmp_path / "mine", list(manifest.classes))
    prepare.place("aircraft", tmp_path / "mine")
    side = locks.load("aircraft").test
    for row, label in enumerate(side.labels.tolist()):
        assert side.images.read(*side.spans[row].tolist()) == picture(50 + label)


def test_pixels_are_kept_exactly(tiny: Callable, tmp_path: Path) -> None:
    manifest = tiny("cifar100")
    TREES["cifar100"](tmp_path / "mine", list(manifest.classes))
    prepare.place("cifar100", tmp_path / "mine")
    side = locks.load("cifar100").train
    source = torchvision.datasets.CIFAR100(tmp_path / "mine", train=True)
    for image, label in zip(side.take(torch.arange(4)), side.labels.tolist(), strict=True):
        assert torch.equal(image, torch.from_numpy(source.data[label]))


def test_the_seeded_split_is_zscls(tiny: Callable, tmp_path: Path) -> None:
    """Their code: ``random_split`` of torchvision's Caltech101 into [0.8, 0.2] with seed 42."""
    manifest = tiny("caltech101")
    TREES["caltech101"](tmp_path / "mine", list(manifest.classes))
    prepare.place("caltech101", tmp_path / "mine")
    dataset = torchvision.datasets.Caltech101(tmp_path / "mine")
    theirs = torch.utils.data.random_split(dataset, [16, 4], generator=torch.Generator().manual_seed(42))
    for side, part in zip(("train", "test"), theirs, strict=True):
        mine = getattr(locks.load("caltech101"), side)
        files = set()
        for image, _ in part:
            with image:
                files.add(hashlib.sha256(Path(image.filename).read_bytes()).digest())
        assert {hashlib.sha256(mine.images.read(*span)).digest() for span in mine.spans.tolist()} == files


def test_a_side_by_hand_and_a_set_by_hand(tiny: Callable, tmp_path: Path) -> None:
    """Folders TRAIN/LABEL and torchvision's layout of the same files give the same pack."""
    manifest = tiny("dtd")
    TREES["dtd"](tmp_path / "theirs", list(manifest.classes))
    for i, label in enumerate(manifest.classes):
        put(tmp_path / f"mine/train/{label}/a.jpg", picture(i))
        put(tmp_path / f"mine/test/{label}/b.JPG", picture(50 + i))
    digest = prepare.place("dtd", tmp_path / "theirs")["digest"]
    locks.lock_path("dtd").unlink()
    assert prepare.place("dtd", tmp_path / "mine")["digest"] == digest


def test_folders_of_a_seeded_set_may_nest(tiny: Callable, tmp_path: Path) -> None:
    manifest = tiny("sun397", classes={"abbey": "abbey", "apse/indoor": "apse/indoor"}, counts={"train": 8, "test": 2})
    split = dataclasses.replace(manifest.split, digest=splits.digest(splits.positions(10, 0.8, 42)[1]))
    tiny("sun397", classes=manifest.classes, counts=manifest.counts, split=split)
    for label in ("abbey", "apse/indoor"):
        for k in range(5):
            put(tmp_path / f"mine/{label}/{k}.png", picture(k, kind="PNG"))
    assert prepare.place("sun397", tmp_path / "mine")["source"] == "folders"
    assert sorted(locks.load("sun397").meta["counts"].values()) == [2, 8]


def test_tars_come_from_the_hubs_cache(tiny: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network: the snapshot lies in the hub's cache already, and the lock keeps its commit."""
    tar = next(source for source in external.load("stanfordcars").sources if source.kind == "tar")
    manifest = tiny("stanfordcars", sources=(tar,))
    commit = "0123456789abcdef0123456789abcdef01234567"
    hub = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, repo: type("Info", (), {"sha": commit}))
    webdataset(hub / "datasets--clip-benchmark--wds_cars/snapshots" / commit, len(manifest.classes))
    assert prepare.get("stanfordcars")["revision"] == commit
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", None)  # the lock knows the commit: nobody is asked
    packed = locks.folder("stanfordcars")
    for file in packed.iterdir():
        file.unlink()
    packed.rmdir()
    assert prepare.get("stanfordcars")["revision"] == commit


def test_parquet_tables(tiny: Callable, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow reads parquet; it comes with clipmerge[paper]")
    parquet = pytest.importorskip("pyarrow.parquet")

    manifest = tiny("stanfordcars")
    names = list(reversed(manifest.classes))  # their numbers are not ours: names decide
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    header = {"huggingface": json.dumps({"info": {"features": features}})}
    for side, first in (("train", 0), ("test", 50)):
        rows = [{"bytes": picture(first + i), "path": None} for i in range(4)]
        table = pyarrow.table({"image": rows, "label": [3, 2, 1, 0]}).replace_schema_metadata(header)
        (tmp_path / "mine/data").mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, tmp_path / f"mine/data/{side}-00000-of-00001.parquet")
    prepare.place("stanfordcars", tmp_path / "mine")
    side = locks.load("stanfordcars").test
    assert [side.images.read(*span) for span in side.spans.tolist()] == [picture(50 + i) for i in range(4)]


def test_parquet_without_pyarrow_says_what_to_install(tiny: Callable, tmp_path: Path, monkeypatch) -> None:
    tiny("stanfordcars")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    for side in ("train", "test"):
        put(tmp_path / f"mine/data/{side}-0.parquet", b"PAR1")
    with pytest.raises(BadInput, match=re.escape("clipmerge[paper]")):
        prepare.place("stanfordcars", tmp_path / "mine")


def test_sources_are_tried_in_turn_and_every_reason_is_said(tiny: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny("stanfordcars")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(locks.folder("hub")))
    with pytest.raises(BadInput) as refused:
        prepare.get("stanfordcars")
    said = str(refused.value)
    assert "\n" not in said
    assert "tanganke/stanford_cars" in said and "wds_cars" in said and "clipmerge data place stanfordcars" in said


def test_a_download_is_kept_whole_or_not_at_all(tiny: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision unpacks, then fails: nothing is left that a second try would take for the whole set."""
    manifest = tiny("dtd")

    def stops(self, root: Path, download: bool, **_: object) -> None:
        put(Path(root) / "dtd/dtd/labels/train1.txt", "half")
        raise OSError("connection reset")

    with monkeypatch.context() as patch:
        patch.setattr(torchvision.datasets.DTD, "__init__", stops)
        with pytest.raises(BadInput, match="connection reset"):
            prepare.get("dtd")
    downloads = locks.folder("downloads")
    assert list(downloads.iterdir()) == []

    def works(self) -> None:
        if not self._data_folder.exists():
            TREES["dtd"](Path(self.root), list(manifest.classes))

    monkeypatch.setattr(torchvision.datasets.DTD, "_download", works)
    assert prepare.get("dtd")["source"] == "torchvision DTD"
    assert list(downloads.iterdir()) == []


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda root: put(root / "train/extra/a.jpg", picture(9)), "one of the manifest's 4 labels, found 'extra'"),
        (lambda root: put(root / "train/banded/z.jpg", picture(9)), "expected {'train': 4, 'test': 4} images, found"),
        (lambda root: put(root / "train/banded/a.jpg", picture(9)[:400]), "a.jpg: expected a whole image, found"),
        (lambda root: put(root / "train/banded/a.jpg", "text"), "a.jpg: expected a whole image, found"),
        (lambda root: (root / "train/banded/a.jpg").rename(root / "train/braided/c.jpg"), "none of number 0"),
    ],
    ids=["label", "count", "cut short", "no image", "class without image"],
)
def test_a_wrong_set_is_refused_and_leaves_nothing(harm: Callable, said: str, tiny: Callable, tmp_path: Path) -> None:
    manifest = tiny("dtd")
    for i, label in enumerate(manifest.classes):
        put(tmp_path / f"mine/train/{label}/a.jpg", picture(i))
        put(tmp_path / f"mine/test/{label}/b.jpg", picture(50 + i))
    harm(tmp_path / "mine")
    with pytest.raises(BadInput, match=re.escape(said)):
        prepare.place("dtd", tmp_path / "mine")
    assert [path.name for path in locks.folder("dtd").parent.iterdir()] == [".dtd.busy"]


def test_other_images_than_the_locks_are_refused(tiny: Callable, tmp_path: Path) -> None:
    manifest = tiny("dtd")
    TREES["dtd"](tmp_path / "mine", list(manifest.classes))
    first = prepare.place("dtd", tmp_path / "mine")
    for file in locks.folder("dtd").iterdir():
        file.unlink()
    put(next((tmp_path / "mine/dtd/dtd/images").rglob("*_0.jpg")), picture(77))
    with pytest.raises(BadInput, match=first["digest"]):
        prepare.place("dtd", tmp_path / "mine")
    assert not locks.ready("dtd")
    assert locks.lock("dtd") == first


def test_damage_shows(tiny: Callable, tmp_path: Path) -> None:
    manifest = tiny("dtd")
    TREES["dtd"](tmp_path / "mine", list(manifest.classes))
    prepare.place("dtd", tmp_path / "mine")
    path = locks.folder("dtd") / packs.IMAGES
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match="run `clipmerge data get dtd` again"):
        locks.check("dtd")
    index = locks.folder("dtd") / packs.INDEX
    data[100] ^= 1
    path.write_bytes(data)
    whole = index.read_bytes()
    index.write_bytes(whole[:-1] + b"x")
    with pytest.raises(BadInput):
        locks.check("dtd")
    index.write_bytes(whole)
    path.write_bytes(data[:-10])
    side = locks.load("dtd").test
    last = side.spans[:, 0].argmax()
    with pytest.raises(BadInput, match="the file was cut short"):
        side.take(last[None]) if side.spans[last, 0] > len(data) / 2 else locks.load("dtd").train.take(torch.arange(4))


def test_only_large_images_are_encoded_anew() -> None:
    small, large = picture(0, (256, 700)), picture(1, (600, 300))
    webp = picture(2, (20, 20), "WEBP")
    kept = [images.pack(images.Sample("train", 0, "x", data)).data for data in (small, large, webp)]
    assert kept[0] == small
    assert images.decode(kept[1]).shape == (256, 512, 3)
    assert images.decode(kept[2]).shape == (20, 20, 3)
