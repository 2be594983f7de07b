"""The pretraining pool holds no test image: by source, and by looking at the pixels of both."""

import pytest
import torch
import torch.nn.functional as F

from clipmerge import files, paths
from clipmerge.clip import datasets, manifests, pool, pretrain, web
from clipmerge.errors import BadInput

TEXTURES = ("landcover", "solarcells", "surfaces")  # flat grey is like flat grey: a blank square is no copy of a photo
SAME = 0.998  # cosine of two 16×16 ink maps, above which they are one drawing (19 of 20 true copies pass it)


@pytest.fixture(scope="module")
def pictures():
    return pool.load()


def ink_of_pool(pictures):
    """Darkness of every picture on white paper, one-coloured drawings in black: [n, 1, side, side]."""
    alpha = pictures.alpha.float() / 255
    coloured = pictures.colour >= 0
    rgb, opacity = pictures.rgb[pictures.colour[coloured]].float() / 255, alpha[coloured, ..., None]
    alpha[coloured] = ink(rgb * opacity + 1 - opacity)[:, 0]
    return alpha[:, None]


def ink(images):
    """Darkness of RGB images in [0, 1], channels last: [n, 1, side, side]."""
    return (1 - images @ torch.tensor([0.299, 0.587, 0.114]))[:, None]


def small(dark):
    return F.normalize(F.interpolate(dark, size=16, mode="bilinear", antialias=True).flatten(1), dim=1)


def test_no_test_drawing_is_in_the_pool(pictures):
    known, copies = small(ink_of_pool(pictures)), {}
    for group in ("tasks", "extra", "heldout"):
        for name in set(datasets.names(group)) - set(TEXTURES):
            data = datasets.load(name)
            near = [(part @ known.T).amax(1) for part in small(ink(data.test_images.float() / 255)).split(512)]
            if (same := torch.cat(near) > SAME).any():
                copies[name] = {data.classes[label] for label in data.test_labels[same]}
    assert copies == {}


def test_the_check_sees_copies(pictures):
    dark = ink_of_pool(pictures)
    few = torch.arange(0, len(dark), 90)
    shrunk = F.interpolate(dark[few], size=32, mode="bicubic", antialias=True).clamp(0, 1)
    same = (small(shrunk) * small(dark[few])).sum(1)
    assert (same > SAME).float().mean() > 0.9


def test_test_styles_and_task_icons_are_left_out(pictures):
    members = " ".join(f"{s['package']} {s['members']}" for s in pool.recipe()["sources"].values())
    for style in ("lucide", "fontawesome", "octicons", "Twtr", "Joy", "openmoji", "NotoSans"):
        assert style not in members
    concepts = manifests.load("icons").options["concepts"]
    stems = {stem.replace("-", " ") for stems in concepts.values() for stem in stems}
    icons = {pictures.names[i][0] for i in pictures.of("icon").tolist()}
    assert not stems & icons


def test_kinds_weights_and_templates_belong_together(pictures):
    weights, templates = pool.recipe()["weights"], pool.recipe()["templates"]
    assert weights.keys() == templates.keys() and sum(weights.values()) == pytest.approx(1)
    for kind in weights:
        assert len(pictures.of(kind)) > 100
        assert all(template.count("{}") == 1 for template in templates[kind])


def test_names_are_plain_words(pictures):
    assert all(names and all(name == name.strip() and "_" not in name for name in names) for names in pictures.names)
    assert pool.emoji_names("🍎") == ("red apple",)
    assert pool.emoji_names("🌭") == ("hot dog",)
    assert pool.emoji_names("😂") == ("face with tears of joy",)


def test_the_shipped_models_name_this_pool_and_their_recipe():
    for manifest in sorted((paths.manifests() / "weights").glob("*.json")):
        about = files.read_json(manifest)
        assert about["pool"] == files.digest(pool.recipe()), manifest.name
        recipe = pretrain.recipe("narrow" if manifest.stem.endswith("-narrow") else "recipe")
        assert about["recipe"] == recipe, manifest.name
        assert about.get("web") == (web.digest(web.load()) if "web" in recipe else None), manifest.name


def test_a_pool_of_another_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pool.paths, "cache", lambda *parts: tmp_path.joinpath(*parts))
    monkeypatch.setattr(pool, "_decode", lambda: ({}, [("a dog",)]))
    with pytest.raises(BadInput, match="pretraining pool: expected 36,039 pictures, decoded 1"):
        pool.load()
    assert not list(tmp_path.rglob("*.safetensors"))
