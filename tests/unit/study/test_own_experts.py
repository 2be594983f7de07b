"""`clipmerge evaluate` and `clipmerge figure` on small folders of images, with experts in Hugging Face's layout."""

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from PIL import Image

from clipmerge import files
from clipmerge.cli import main
from clipmerge.clip import evaluate, hub, models, prompts
from clipmerge.errors import BadInput
from clipmerge.study import results
from clipmerge.study.own import data as own_data
from clipmerge.study.own import experts as own_experts

NAME = "nano-xs"
COLOURS = {"red_square": (220, 30, 30), "green_square": (30, 200, 30), "blue_square": (30, 30, 220)}


def pictures(folder, seed, count=4, size=(40, 33)):
    draw = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for k in range(count):
            noise = draw.integers(-25, 25, (*size, 3))
            Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(folder / name / f"{k}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("own")
    base, made = models.state(models.create(NAME)), open_clip.get_model_config(NAME)
    generator = torch.Generator().manual_seed(1)
    for name in ("base", "squares", "walls"):
        moved = {n: x + (name != "base") * 0.02 * torch.randn(x.shape, generator=generator) for n, x in base.items()}
        files.save_tensors(place / f"{name}.safetensors", moved, {"architecture": made})
        hub.write(hub.opened(str(place / f"{name}.safetensors"), [])[0], place / name, "huggingface")
    pictures(place / "data" / "squares" / "test", 0)
    pictures(place / "data" / "squares" / "train", 1)
    pictures(place / "data" / "walls", 2)
    folders = [str(place / "squares"), str(place / "walls")]
    assert main(["unify", "--base", str(place / "base"), "--out", str(place / "unified"), *folders]) == 0
    return place


def command(place, out, *more):
    data = [str(place / "data" / name) for name in ("squares", "walls")]
    return main(["evaluate", str(place / "unified"), "--out", str(out), "--data", *data, *more])


def test_every_row_is_there_and_right(place, tmp_path, capsys):
    assert command(place, tmp_path / "r.csv", "--techniques", "average", "ties", "slerp") == 0
    rows = pd.read_csv(tmp_path / "r.csv", keep_default_na=False)
    assert list(rows.columns) == [*results.COLUMNS, "model"]
    accuracy = rows[rows.metric == "accuracy"]
    counts = accuracy.groupby("method").size().to_dict()
    single = {"zero-shot": 3, "routed": 3, "average": 3, "ties": 3, "slerp": 3}  # two tasks and their mean
    assert counts == single | {"experts": 4, "decoupled": 4}
    assert set(accuracy[accuracy.task != "mean"].n) == {"12"}
    model = models.create(NAME, place / "squares.safetensors")
    task = own_data.task(str(place / "data" / "squares"))
    head = prompts.head(model, NAME, task.classes, task.templates)
    images = torch.cat(list(task.test.batches(32)))
    expected = evaluate.accuracy(evaluate.features(model, images) @ head.T, task.test.labels)
    found = accuracy[(accuracy.method == "experts") & (accuracy.model == "squares") & (accuracy.task == "squares")]
    assert float(found.value.iloc[0]) == pytest.approx(expected)
    kept = rows[rows.metric == "kept"]
    assert sorted(kept.model) == ["squares", "walls"] and (kept.model == kept.task).all()
    assert "routed" in capsys.readouterr().out
    assert main(["figure", str(tmp_path / "r.csv")]) == 0
    with Image.open(tmp_path / "r.png") as picture:
        assert picture.size[0] > 500
    assert main(["figure", str(tmp_path / "r.csv")]) == 2  # the picture is there already
    assert "--force" in capsys.readouterr().err


def test_routing_with_all_experts_is_their_mean(place):
    frame = own_experts.grade(place / "unified", [str(place / "data" / "walls")], techniques=(), nearest=9)
    assert set(frame.method) == {"zero-shot", "experts", "decoupled", "routed"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--experts", "one"], "--experts"),
        (["--base", "nowhere"], "found nothing there"),
        (["--data", "nothing-of-the-kind"], "nothing-of-the-kind"),
    ],
)
def test_what_is_missing_is_said(more, words, place, tmp_path, capsys):
    assert command(place, tmp_path / "r.csv", *more) == 2
    said = capsys.readouterr().err
    assert words in said.splitlines()[-1] and not (tmp_path / "r.csv").exists()


def test_a_base_without_config_needs_a_model(place, tmp_path, capsys):
    bare = {n: files.load_tensors(place / f"{n}.safetensors") for n in ("base", "squares", "walls")}
    for name, weights in bare.items():
        files.save_tensors(tmp_path / f"{name}.safetensors", weights)
    where = ["--base", str(tmp_path / "base.safetensors")]
    where += ["--experts", *(str(tmp_path / f"{n}.safetensors") for n in ("squares", "walls"))]
    assert command(place, tmp_path / "r.csv", *where) == 2
    assert "--model ARCHITECTURE" in capsys.readouterr().err
    assert command(place, tmp_path / "r.csv", *where, "--model", NAME) == 0


@pytest.mark.parametrize(
    ("name", "task"),
    [("clip-vit-base-patch32_mnist", "MNIST"), ("dtd", "DTD"), ("kmnist", "KMNIST"), ("a-kmnist", "KMNIST")],
)
def test_whose_task_it_is(name, task):
    assert own_experts.own(name, ["MNIST", "KMNIST", "DTD"]) == task


def test_folders_of_images_are_read_as_clip_does(tmp_path):
    (tmp_path / "t" / "a").mkdir(parents=True)
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = 200
    Image.fromarray(wide).save(tmp_path / "t" / "a" / "x.png")
    (image,) = next(own_data.task(str(tmp_path / "t")).test.batches(32))
    assert image.shape == (32, 32, 3) and image.min() == 200  # the middle of it
    (tmp_path / "t" / "a" / "y.jpg").write_bytes(b"no image")
    with pytest.raises(BadInput, match="y.jpg: expected an image"):
        list(own_data.task(str(tmp_path / "t")).test.batches(32))
    (tmp_path / "t" / "b").mkdir()
    with pytest.raises(BadInput, match="expected a folder for every class"):
        own_data.task(str(tmp_path / "t" / "b"))
