"""The rerun of a pretraining as a step, and curves that keep their mean when they are thinned out."""

import numpy as np
import pytest

from clipmerge import files
from clipmerge.clip import pretrain
from clipmerge.errors import BadInput
from clipmerge.study import profiles
from clipmerge.study.cache import store
from clipmerge.study.experts import pretraining


def test_a_rerun_repeats_itself_and_keeps_no_checkpoint(tmp_path):
    recipe = {**pretrain.recipe(), "batch": 8, "steps": 2}
    folder = store.get(pretraining.step("nano-xs", recipe))
    assert sorted(path.name for path in folder.iterdir()) == ["DONE.json", "log.json", "nano-xs.safetensors"]
    config = {"model": "nano-xs", "recipe": recipe, "stop": None}
    pretraining.rerun(tmp_path, config=config, inputs={}, seed=0)
    assert pretraining.losses(tmp_path) == pretraining.losses(folder)
    assert files.sha256(tmp_path / "nano-xs.safetensors") == files.sha256(folder / "nano-xs.safetensors")


def test_another_recipe_is_another_step():
    recipe = pretrain.recipe()
    keys = {pretraining.step("nano-xs", {**recipe, "seed": seed}, stop).key for seed in (0, 1) for stop in (2, 3)}
    assert len(keys) == 4


def test_a_stopped_run_is_the_beginning_of_the_whole(tmp_path):
    recipe = {**pretrain.recipe(), "batch": 8, "steps": 4, "warmup": 1}
    whole = pretrain.run("nano-xs", tmp_path / "whole", recipe, progress=False)
    begun = pretrain.run("nano-xs", tmp_path / "parts", recipe, progress=False, stop=2)
    assert [row["loss"] for row in begun] == [row["loss"] for row in whole[:2]]
    rest = pretrain.run("nano-xs", tmp_path / "parts", recipe, progress=False)
    assert [row["loss"] for row in rest] == [row["loss"] for row in whole]
    weights = {files.sha256(tmp_path / part / "nano-xs.safetensors") for part in ("whole", "parts")}
    assert len(weights) == 1


@pytest.mark.parametrize("length", [1, 4, 59, 600, 2800])
def test_a_thinned_curve_covers_every_step_once(length):
    loss = np.linspace(6, 2, length)
    rows = pretraining.curve(loss.tolist(), "nano-s", "shipped")
    assert len(rows) <= 60 and rows.step.is_monotonic_increasing
    assert rows.step.iloc[0] == 1 and rows.value.iloc[0] == pytest.approx(loss[0])
    line = np.interp(rows.step, np.arange(1, length + 1), loss)  # bins of a straight line have their centre on it
    assert rows.value.to_numpy() == pytest.approx(line)


def test_the_shipped_curve_belongs_to_its_manifest():
    about = pretraining.about("nano-s")
    assert about["model"] == "nano-s"
    assert about["pairs"] == len(pretraining.shipped("nano-s")) * about["recipe"]["batch"]


def test_a_profile_whose_models_come_pretrained_is_told_so():
    paper, smoke = profiles.load("paper-condu"), profiles.load("smoke")
    said = f"profile paper-condu: expected a section pretrain, found null: {paper.model} comes"
    with pytest.raises(BadInput, match=said):
        pretraining.brief(paper)
    brief = pretraining.brief(smoke)
    assert brief["steps"] == smoke.pretrain.steps and brief["seed"] == pretrain.recipe()["seed"]
