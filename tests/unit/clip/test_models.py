"""Models: names to weights, and guards."""

import hashlib

import open_clip
import pytest
import torch

from clipmerge import files
from clipmerge.clip import models, prompts
from clipmerge.errors import BadInput


@pytest.fixture(scope="module")
def model():
    return models.create("nano-xs", pretrained=None)


def test_nano_models_are_open_clips_own_class(model):
    assert type(model) is open_clip.CLIP
    assert {"nano-xs", "nano-s", "nano-m"} == set(models.NANO)


def test_random_weights_follow_from_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, two = (models.create("nano-xs", None, seed=3).state_dict() for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[key], two[key]) for key in one)
    other = models.create("nano-xs", None, seed=4).state_dict()
    assert not torch.equal(one["visual.conv1.weight"], other["visual.conv1.weight"])


def test_cutting_short_texts_changes_nothing(model):
    tokens = models.tokenizer("nano-xs")(["a dog", "the flag of bosnia and herzegovina", "7"])
    with torch.no_grad():
        whole = torch.nn.functional.normalize(model.encode_text(tokens), dim=-1)
        for pieces in (1, 2, 5):
            torch.testing.assert_close(models.encode_text(model, tokens, pieces), whole, atol=1e-6, rtol=0)


def test_tokens_fit_the_vocabulary_and_unknown_words_are_spelt_out():
    tokens = models.tokenizer("nano-s")(["qwxyzzy", "the flag of france"])
    assert tokens.shape == (2, 16)
    assert tokens.max() == 4097, "the end token is the largest id: text features are read there"


def test_a_shipped_model_loads_with_its_manifest():
    path = models.weights("nano-s")
    state = models.create("nano-s").state_dict()
    stored = files.load_tensors(path)
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[key], stored[key]) for key in state)


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(models.paths, "manifests", lambda: tmp_path)
    with pytest.raises(BadInput, match="nano-xs.json: expected a weights manifest"):
        models.weights("nano-xs")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "nano-xs.safetensors").write_bytes(b"not what was trained")
    files.write_json(tmp_path / "weights" / "nano-xs.json", {"sha256": hashlib.sha256(b"trained").hexdigest()})
    with pytest.raises(BadInput, match="nano-xs.safetensors: expected sha256"):
        models.weights("nano-xs")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nano-xxl", "expected one of nano-m"),
        ("ViT-B-32", "architecture/weights"),
        ("ViT-B-16/openai", "QuickGELU, that is 'ViT-B-16-quickgelu/openai'"),
    ],
)
def test_bad_names_are_refused_before_anything_is_downloaded(spec, says):
    with pytest.raises(BadInput, match=says):
        models.create(spec)


def test_keys_that_do_not_fit_are_named(model, tmp_path):
    state = model.state_dict()
    state["visual.extra"] = state.pop("visual.proj")
    files.save_tensors(tmp_path / "odd.safetensors", state)
    with pytest.raises(BadInput, match=r"odd.safetensors: 1 missing keys .* visual.proj"):
        models.create("nano-xs", pretrained=tmp_path / "odd.safetensors")


def test_pixels_are_normalised_and_resized(model):
    white = torch.full((2, 48, 48, 3), 255, dtype=torch.uint8)
    x = models.pixels(white, model)
    assert x.shape == (2, 3, 32, 32)
    mean, std = (torch.tensor(v) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    torch.testing.assert_close(x[0, :, 5, 5], (1 - mean) / std)
    assert torch.equal(models.pixels(white.permute(0, 3, 1, 2), model), x), "channels may come first"


def test_a_head_is_the_mean_over_templates(model):
    both = prompts.head(model, "nano-xs", ["dog", "cat"], ["a photo of a {}", "a {}"])
    single = [prompts.head(model, "nano-xs", ["dog", "cat"], [t]) for t in ("a photo of a {}", "a {}")]
    expected = torch.nn.functional.normalize(sum(single), dim=-1)
    torch.testing.assert_close(both, expected)
