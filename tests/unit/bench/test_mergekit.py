"""mergekit is asked for the same merges, and nothing of it is left behind; a stand-in writes what it was told."""

import pytest
import yaml

from clipmerge.bench import mergekit
from clipmerge.errors import BadInput

STAND_IN = """#!/bin/sh
cp "$1" "%s/asked.yaml"
mkdir "$2" && : > "$2/model.safetensors"
"""


@pytest.fixture
def command(tmp_path):
    path = tmp_path / "mergekit-pytorch"
    path.write_text(STAND_IN % tmp_path)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("operation", mergekit.METHODS)
def test_the_recipe_names_the_same_files_and_leaves_nothing_behind(operation, command, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    experts = [place / "one.safetensors", place / "two.safetensors"]
    assert mergekit.seconds(command, operation, place / "base.safetensors", experts, 2, place) > 0
    asked = yaml.safe_load((tmp_path / "asked.yaml").read_text())
    assert [model["model"] for model in asked["models"]] == [str(path) for path in experts]
    assert ("base_model" in asked) == (operation == "ties") and asked["dtype"] == "float32"
    assert not list(place.iterdir())


def test_a_command_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match="--mergekit: expected the path of mergekit-pytorch, found 'nowhere'"):
        mergekit.seconds("nowhere", "ties", tmp_path / "base", [], 1, tmp_path)
