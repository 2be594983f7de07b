"""The manifests of the real sets hold what MTIL's papers say of them; the commands say it in one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest
import torchvision.datasets
import yaml

from clipmerge import paths
from clipmerge.clip import manifests
from clipmerge.clip.data import external, locks
from clipmerge.clip.data.__main__ import main
from clipmerge.clip.data.images import Sample
from clipmerge.errors import BadInput

from .real_trees import picture

TEMPLATES = dict(zip(external.names(), (2, 34, 18, 8, 3, 1, 1, 1, 1, 9, 2), strict=True))


def test_mtil_has_eleven_sets_and_1201_classes() -> None:
    sets = [external.load(name) for name in external.names()]
    assert sum(len(one.classes) for one in sets) == 1201
    assert sum(one.counts["test"] for one in sets) == 97_209  # the sizes that ZSCL's published accuracies imply
    assert {one.name: len(one.templates) for one in sets} == TEMPLATES
    assert {one.name for one in sets if one.split.rule == "ours"} == {"sun397"}
    assert {one.name for one in sets if one.split.rule == "zscl"} == {"caltech101", "eurosat"}


def test_hub_sources_are_pinned_or_say_so() -> None:
    hub = [(one, s) for one in map(external.load, external.names()) for s in one.sources if s.kind != "torchvision"]
    assert len(hub) == 3
    for one, source in hub:
        assert source.revision or any(source.repo in line for line in one.unverified)


def test_labels_are_those_that_torchvision_has_in_its_code() -> None:
    assert list(external.load("mnist").classes) == torchvision.datasets.MNIST.classes
    assert list(external.load("flowers").classes) == torchvision.datasets.Flowers102.classes


def test_labels_are_found_whatever_their_spelling() -> None:
    cars = external.load("Stanford Cars")
    ram = list(cars.classes).index("Ram C/V Cargo Van Minivan 2012")
    assert cars.number("Ram C-V Cargo Van Minivan 2012") == ram
    assert external.load("sun397").classes["apse/indoor"] == "apse/indoor"
    with pytest.raises(BadInput, match="manifest's 196 labels, found 'Trabant'"):
        cars.number("Trabant")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": 1}, "must not contain .*colour"),
        ({"counts": {"train": 0, "test": 1}}, "train must be bigger than or equal to 1, found 0"),
        ({"sources": [{"kind": "zip", "repo": "a/b", "revision": None, "sides": {}}]}, "must be valid exactly by one"),
        ({"name": "other"}, "expected name 'dtd', found 'other'"),
        ({"classes": {"a b": "x", "A_b": "y"}}, "expected labels that differ in letters or digits"),
    ],
    ids=lambda value: [*value][0] if isinstance(value, dict) else "",
)
def test_a_wrong_manifest_is_refused(change: dict, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = yaml.safe_load((external.FOLDER / "dtd.yaml").read_text()) | change
    (tmp_path / "dtd.yaml").write_text(yaml.safe_dump(entry))
    monkeypatch.setattr(external, "FOLDER", tmp_path)
    external.load.cache_clear()
    try:
        with pytest.raises(BadInput, match=said):
            external.load("dtd")
    finally:
        external.load.cache_clear()


def test_the_command_line_imports_nothing_heavy() -> None:
    asked = "import sys, clipmerge.clip.data.command; print({'torch', 'numpy', 'yaml'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_list_says_what_is_packed(cache: Path, capsys: pytest.CaptureFixture) -> None:
    pack_toy("mnist")
    assert main(["list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert " packed " in lines["mnist"] and "CC BY-SA 3.0" in lines["mnist"]
    assert "39,077" in lines["sun397"] and " ours " in lines["sun397"] and " to get " in lines["sun397"]
    assert "0 of 63" in lines["FoMo-in-Flux:"]


def test_check_reads_what_is_packed(cache: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["check"]) == 2
    assert "expected at least one packed set" in capsys.readouterr().err
    pack_toy("mnist")
    assert main(["check"]) == 0
    assert capsys.readouterr().out.startswith("mnist: toy, digest ")
    (locks.folder("mnist") / "images.bin").write_bytes(b"")
    assert main(["check", "mnist"]) == 2
    assert "clipmerge data get mnist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["get", "imagenet"], "data set 'imagenet': expected one of aircraft, "),
        (["check", "dtd"], "`clipmerge data get dtd` makes it"),
        (["place", "dtd", "nowhere"], "nowhere: expected a folder with DTD, found none"),
        (["place", "dtd", "."], "FOLDER holding dtd/ as torchvision lays it out, or train/LABEL/*.jpg and test/LABEL"),
        (["import-fomo", "."], "expected a clone of fomo_in_flux"),
    ],
)
def test_commands_refuse_in_one_sentence(
    arguments: list[str], said: str, cache: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "empty").mkdir()
    monkeypatch.chdir(cache / "empty")
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.startswith("clipmerge: ") and told.count("\n") == 1


def test_get_leaves_what_is_packed(cache: Path, capsys: pytest.CaptureFixture) -> None:
    for name in external.names():
        pack_toy(name)
    assert main(["get", "mtil", "mnist"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == list(external.names())


def test_too_small_a_disk_is_said_before_a_download(
    cache: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 5e6}))
    assert main(["get", "mnist"]) == 2
    assert "expected 30 MB free for MNIST, found 5 MB" in capsys.readouterr().err


def test_one_process_at_a_time_makes_a_set(cache: Path) -> None:
    with locks._alone("mnist"), pytest.raises(BadInput, match="expected no other process at work on it"):
        pack_toy("mnist")


def pack_toy(name: str) -> None:
    samples = iter([Sample("train", 0, "a", picture(0)), Sample("test", 0, "b", picture(1))])
    locks.pack({"name": name, "source": "toy", "revision": None}, samples, 2, list)


def test_the_schema_names_every_field() -> None:
    rules = manifests.files.read_json(paths.manifests() / "schema/external.schema.json")
    assert set(rules["properties"]) == set(external.External.__dataclass_fields__) - {"labels"}
