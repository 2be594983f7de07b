"""Doors: every reference, every layout, the same features as transformers, nothing silently wrong. No network."""

import json
import os
import shutil
from types import SimpleNamespace

import open_clip
import pytest
import torch
from open_clip.push_to_hf_hub import save_for_hf

from clipmerge import files
from clipmerge.cli import main
from clipmerge.clip import hub
from clipmerge.clip.hub import architecture, views
from clipmerge.errors import BadInput
from clipmerge.merge import delta, techniques

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
REVISION = "0123456789abcdef0123456789abcdef01234567"


def clip(seed, act="quick_gelu"):
    text = SMALL | {"vocab_size": 60, "max_position_embeddings": 9, "bos_token_id": 58, "eos_token_id": 59}
    vision = SMALL | {"hidden_size": 48, "image_size": 16, "patch_size": 8, "projection_dim": 24}
    towers = {"text_config": text, "vision_config": vision}
    config = transformers.CLIPConfig(projection_dim=24, **{k: v | {"hidden_act": act} for k, v in towers.items()})
    torch.manual_seed(seed)
    model = transformers.CLIPModel(config).eval()
    for parameter in model.parameters():  # biases and norms at their initial values would hide a mistake
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    for seed, name in enumerate(("base", "digits", "flags")):
        clip(seed).save_pretrained(folder / name)
    return folder


def state(view):
    with view.reading() as read:
        flat = {name: read(name, 0, torch.Size(shape).numel()) for name, (shape, _) in view.layout.items()}
    return {name: torch.from_numpy(x.copy()).reshape(view.layout[name][0]) for name, x in flat.items()}


def loaded(weights, made):
    model = open_clip.CLIP(**made).eval()
    model.load_state_dict(weights)
    return model


def agree(ours, theirs, towers=("image", "text")):
    torch.manual_seed(9)
    pixels, tokens = torch.randn(3, 3, 16, 16), torch.randint(1, 57, (4, 9))
    tokens[:, 0], tokens[:, -1] = 58, 59
    with torch.no_grad():
        if "image" in towers:
            vision = theirs.vision_model(pixel_values=pixels).pooler_output
            torch.testing.assert_close(ours.encode_image(pixels), theirs.visual_projection(vision), atol=1e-5, rtol=0)
        if "text" in towers:
            text = theirs.text_model(input_ids=tokens).pooler_output
            torch.testing.assert_close(ours.encode_text(tokens), theirs.text_projection(text), atol=1e-5, rtol=0)


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_features_are_those_of_transformers_in_both_directions(act, tmp_path):
    theirs = clip(3, act)
    theirs.save_pretrained(tmp_path / "theirs")
    view = hub.opened(str(tmp_path / "theirs"), [])[0]
    made = view.meta["architecture"]
    assert made["quick_gelu"] is (act == "quick_gelu")
    agree(loaded(state(view), made), theirs)
    back = hub.write(view, tmp_path / "back", "huggingface")
    again = transformers.CLIPModel.from_pretrained(back).eval()
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in theirs.state_dict().items())
    agree(loaded(state(view), made), again)
    assert again.config.vision_config.hidden_act == act


@pytest.mark.parametrize("kind", ["vision_model.", "flat", "with projection"])
def test_a_vision_tower_alone_is_completed_by_the_base(kind, place, tmp_path):
    whole, base = clip(7), clip(0)
    tower = transformers.CLIPVisionModel(whole.config.vision_config).eval()
    if kind == "with projection":
        tower = transformers.CLIPVisionModelWithProjection(whole.config.vision_config).eval()
        tower.visual_projection.load_state_dict(whole.visual_projection.state_dict())
        inner = tower.vision_model
    else:
        inner = tower
    inner.load_state_dict(whole.vision_model.state_dict(), strict=True)
    tower.save_pretrained(tmp_path / "birds")
    weights = tmp_path / "birds" / "model.safetensors"
    if kind == "vision_model.":  # as transformers 4 wrote it, with its buffer of positions
        old = {f"vision_model.{n}": x for n, x in files.load_tensors(weights).items()}
        files.save_tensors(weights, old | {"vision_model.embeddings.position_ids": torch.arange(5)[None]})
    said = []
    theta, (view,) = hub.opened(str(place / "base"), [str(tmp_path / "birds")], said.append)
    base.vision_model.load_state_dict(whole.vision_model.state_dict())
    if kind == "with projection":
        base.visual_projection.load_state_dict(whole.visual_projection.state_dict())
    agree(loaded(state(view), theta.meta["architecture"]), base)
    lacks = "no text projection, no logit scale, no text tower: the base's is taken"
    assert said == [f"birds has no vision projection, {lacks}" if kind != "with projection" else f"birds has {lacks}"]
    change = delta(state(view), state(theta))
    assert not any(change[n].any() for n in change if not n.startswith("visual."))


def shard(folder, out):
    weights = files.load_tensors(folder / "model.safetensors")
    names = sorted(weights)
    out.mkdir()
    shutil.copy(folder / "config.json", out)
    index = {}
    for k in range(3):
        index |= dict.fromkeys(names[k::3], f"model-0000{k + 1}-of-00003.safetensors")
        files.save_tensors(out / f"model-0000{k + 1}-of-00003.safetensors", {n: weights[n] for n in names[k::3]})
    files.write_json(out / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    return out


def cached(folder, home, name, revision=REVISION):
    """A repository as huggingface_hub keeps it: blobs, a snapshot of links to them, a ref."""
    repo = home / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / revision
    (repo / "blobs").mkdir(parents=True)
    (repo / "refs").mkdir()
    snapshot.mkdir(parents=True)
    (repo / "refs" / "main").write_text(revision)
    for file in (path.name for path in folder.iterdir()):
        shutil.copy(folder / file, repo / "blobs" / files.sha256(folder / file))
        os.symlink(f"../../blobs/{files.sha256(folder / file)}", snapshot / file)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    from huggingface_hub import constants

    home = tmp_path / "hub-cache"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))
    return home


def test_every_reference_leads_to_the_same_model(place, tmp_path, offline):
    cached(place / "digits", offline, "someone/clip_digits")
    shards = shard(place / "digits", tmp_path / "sharded")
    expected = state(hub.opened(str(place / "digits"), [])[0])
    said = []
    for reference, name in {
        f"local-dir:{place}/digits": "digits",
        str(place / "digits" / "model.safetensors"): "model",
        str(shards): "sharded",
        str(shards / "model.safetensors.index.json"): "sharded",
        f"hf:someone/clip_digits@{REVISION}": "clip_digits",
        "hf:someone/clip_digits": "clip_digits",
    }.items():
        view = hub.opened(reference, [], said.append)[0]
        assert view.name == name, reference
        found = state(view)
        assert found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in found), reference
    assert said == [f"hf:someone/clip_digits is at revision {REVISION}; hf:someone/clip_digits@{REVISION[:12]} pins it"]


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (
            "hf:someone/absent",
            "hf:someone/absent: expected it in the cache .* HF_HUB_OFFLINE forbids a download",
        ),
        ("hf:absent", "expected hf:owner/name"),
        ("open_clip:ViT-B-32/never", "expected open_clip:ARCHITECTURE/TAG"),
        ("open_clip:ViT-B-32/openai", "these weights expect QuickGELU"),
        ("nowhere", "found nothing there"),
        ("empty", "empty: expected one safetensors file or model.safetensors.index.json in it, found none"),
        ("pickled", "found a pickle only"),
        ("index", "expected a weight_map"),
        ("odd", "hidden_act"),
        ("torn", "k_proj.weight beside its likes, found none"),
    ],
)
def test_what_leads_nowhere_is_one_sentence(reference, words, place, tmp_path, offline, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "pickled", "index"):
        (tmp_path / name).mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    (tmp_path / "index" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')
    for name in ("odd", "torn"):
        shutil.copytree(place / "digits", tmp_path / name)
    config = json.loads((tmp_path / "odd" / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "silu"
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config))
    weights = files.load_tensors(tmp_path / "torn" / "model.safetensors")
    del weights["text_model.encoder.layers.1.self_attn.k_proj.weight"]
    files.save_tensors(tmp_path / "torn" / "model.safetensors", weights)
    with pytest.raises(BadInput, match=words):
        hub.opened(reference, [])


def test_another_activation_is_refused(place, tmp_path):
    clip(4, "gelu").save_pretrained(tmp_path / "birds")
    with pytest.raises(BadInput, match="birds: expected the base's activation, QuickGELU, found GELU"):
        hub.opened(str(place / "base"), [str(tmp_path / "birds")])


def test_commands_take_hub_models_and_half_precision(place, tmp_path, offline, capsys):
    cached(place / "base", offline, "someone/clip")
    for name, dtype in (("digits", torch.float16), ("flags", torch.bfloat16)):
        clip(1 if name == "digits" else 2).to(dtype).save_pretrained(tmp_path / name)
    out = str(tmp_path / "merged.safetensors")
    command = f"merge --technique ties --density 0.3 --base hf:someone/clip@{REVISION} --out {out}".split()
    assert main([*command, str(tmp_path / "digits"), str(tmp_path / "flags")]) == 0
    base, experts = hub.opened(str(place / "base"), [str(tmp_path / name) for name in ("digits", "flags")])
    states = [state(view) for view in experts]
    assert {view.layout["visual.proj"][1] for view in experts} == {"float16", "bfloat16"}
    expected = techniques.merge("ties", states, state(base), keep=0.3)
    found = files.load_tensors(out)
    assert all(torch.equal(found[name], x) for name, x in expected.items())
    assert main([*command, "--force", "--dtype", "bfloat16", str(tmp_path / "digits"), str(tmp_path / "flags")]) == 0
    found = files.load_tensors(out)
    assert all(torch.equal(found[name], x.bfloat16()) for name, x in expected.items())
    assert main(["convert", out, str(tmp_path / "hf"), "--layout", "huggingface"]) == 0
    again = transformers.CLIPModel.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    agree(loaded({n: x.float() for n, x in found.items()}, files.load_meta(out)["architecture"]), again)
    folders = [str(tmp_path / "digits"), str(place / "flags")]
    assert main(["unify", "--base", str(place / "base"), "--out", str(tmp_path / "u"), *folders]) == 0
    assert main(["inspect", str(tmp_path / "u")]) == 0
    assert "task digits: rescaler" in capsys.readouterr().out


def test_chunks_of_a_view_are_those_of_the_whole(place):
    view = hub.opened(str(place / "base"), [])[0]
    whole = state(view)
    with view.reading() as read:
        for name in ("visual.proj", "visual.transformer.resblocks.1.attn.in_proj_weight", "ln_final.bias"):
            flat, count = whole[name].reshape(-1), whole[name].numel()
            for start in range(0, count, 1 + count // 7):
                stop = min(count, start + 1 + count // 7)
                assert read(name, start, stop).tolist() == flat[start:stop].tolist()
    both = views.as_open_clip(views.as_huggingface(view))
    assert all(torch.equal(x, whole[name]) for name, x in state(both).items())


VISION = {"image_size": 8, "layers": 1, "width": 64, "patch_size": 4}
TEXT = {"context_length": 5, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
TINY = {"embed_dim": 8, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}


def test_open_clips_own_folders_and_their_architecture(tmp_path):
    files.write_json(tmp_path / "open_clip_config.json", {"model_cfg": TINY, "preprocess_cfg": {}})
    files.save_tensors(tmp_path / "open_clip_model.safetensors", open_clip.CLIP(**TINY).state_dict())
    view = hub.opened(f"local-dir:{tmp_path}", [])[0]
    assert view.meta["architecture"] == TINY
    assert architecture.huggingface(TINY)["vision_config"]["num_attention_heads"] == 1


@pytest.fixture
def tag(tmp_path, offline, monkeypatch):
    """An architecture and a tag that open_clip knows, their weights in the cache as open_clip itself uploads them."""
    weights = open_clip.pretrained._pcfg(hf_hub="someone/tiny_clip.tuned/", quick_gelu=True)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TINY)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"tuned": weights})
    torch.manual_seed(5)
    tokenizer = SimpleNamespace(save_pretrained=str)  # which this room has no use for
    save_for_hf(open_clip.create_model("tiny"), tokenizer, TINY, tmp_path / "tuned", safe_serialization=True)
    # timm's repositories hold its vision tower beside open_clip's files.
    files.save_tensors(tmp_path / "tuned" / "model.safetensors", {"cls_token": torch.zeros(1)})
    files.write_json(tmp_path / "tuned" / "config.json", {"architecture": "vit"})
    cached(tmp_path / "tuned", offline, "someone/tiny_clip.tuned")
    return "open_clip:tiny/tuned"


def test_a_tag_is_the_model_that_open_clip_makes_of_it(tag, tmp_path):
    said = []
    view = hub.opened(tag, [], said.append)[0]
    theirs = open_clip.create_model("tiny", pretrained="tuned").eval()  # from the same cache, by its own download
    found, expected = state(view), theirs.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[n], x) for n, x in expected.items())
    pixels = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        ours = loaded(found, view.meta["architecture"]).encode_image(pixels)
        assert torch.equal(ours, theirs.encode_image(pixels))
    assert view.name == "tiny-tuned" and view.meta["architecture"] == TINY
    name = "hf:someone/tiny_clip.tuned"
    assert said == [f"{name} is at revision {REVISION}; {name}@{REVISION[:12]} pins it"]

    expert = {n: x + 0.01 * torch.randn_like(x) for n, x in expected.items()}
    files.save_tensors(tmp_path / "expert.safetensors", expert)
    out = str(tmp_path / "u")
    assert main(["unify", "--base", tag, "--out", out, str(tmp_path / "expert.safetensors")]) == 0
    assert files.read_json(tmp_path / "u" / "notes.json")["base"] == tag
    alone = files.load_tensors(tmp_path / "u" / "unified.safetensors")  # of one expert: its delta
    assert all(torch.equal(alone[n], x) for n, x in delta(expert, expected).items())
