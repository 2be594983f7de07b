"""Training loops: learning rates, batches by step, exact resume; fine-tuning and pretraining on tiny data."""

import math

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clipmerge import files
from clipmerge.clip import adapt, augment, datasets, finetune, models, pairs, pool, pretrain, prompts, training, web
from clipmerge.clip.datasets import Dataset
from clipmerge.errors import BadInput


@pytest.fixture(scope="module")
def toy():
    """Two classes, dark and bright: learnable in a few steps."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    noise = torch.randint(0, 60, (40, 32, 32, 3), generator=generator, dtype=torch.uint8)
    images = noise + (labels * 190).to(torch.uint8)[:, None, None, None]
    empty = torch.zeros(0, dtype=torch.int64)
    return Dataset("toy", "Toy", ("night", "day"), ("a photo of {}",), images, labels, images[:0], empty)


@pytest.fixture(scope="module")
def pictures():
    """A pool of eight pictures, two of each of four kinds."""
    generator = torch.Generator().manual_seed(1)
    kinds = torch.tensor(
        [pool.KINDS.index(k) for k in ("icon", "icon", "emoji", "emoji", "flag", "flag", "digit", "digit")]
    )
    colour = torch.tensor([-1, -1, 0, 1, 2, 3, -1, -1])
    alpha = torch.randint(0, 256, (8, pool.SIDE, pool.SIDE), generator=generator, dtype=torch.uint8)
    rgb = torch.randint(0, 256, (4, pool.SIDE, pool.SIDE, 3), generator=generator, dtype=torch.uint8)
    names = (("bell",), ("key",), ("cat", "cat face"), ("dog",), ("france",), ("peru",), ("7", "seven"), ("1", "one"))
    return pool.Pool(names, kinds, alpha, colour, rgb)


@pytest.fixture
def small_pool(pictures, monkeypatch):
    """Those pictures are all of the pool that a recipe finds."""
    drawn = {**pool.recipe(), "weights": {"icon": 0.5, "emoji": 0.5}}
    monkeypatch.setattr(pool, "recipe", lambda: drawn)
    monkeypatch.setattr(pool, "load", lambda: pictures)
    return pictures


def test_rate_warms_up_then_follows_a_cosine():
    rates = [training.rate(step, 110, 1.0, 10) for step in range(110)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0) == max(rates)
    assert rates[60] == pytest.approx(0.5) and rates[-1] < 0.001
    assert training.rate(110, 110, 1.0, 10, floor=0.1) == pytest.approx(0.1)


def test_pretraining_rate_cools_down_to_zero_without_a_jump():
    config = {"horizon": 1.4, "cooldown": 0.4, "lr": 1.0, "warmup": 10}
    rates = [pretrain.rate(step, 1000, config) for step in range(1001)]
    assert rates[1000] == 0 and max(abs(a - b) for a, b in zip(rates[10:], rates[11:], strict=False)) < 2e-3


def test_batches_follow_from_seed_and_step_alone():
    draw = lambda seed, step: torch.rand(2, generator=training.generator(seed, step)).tolist()  # noqa: E731
    assert draw(1, 5) == draw(1, 5)
    assert len({tuple(draw(seed, step)) for seed in range(3) for step in range(50)}) == 150


def _slope(*at):
    """Two parameters in two groups and a loss whose gradient is (3, 4), whatever an earlier step has left."""
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor([value])) for value in at])
    optimizer = torch.optim.SGD([{"params": [p]} for p in model], lr=9.0)
    sum(7 * p for p in model).sum().backward()
    return model, optimizer, (3 * model[0] + 4 * model[1]).sum()


@pytest.mark.parametrize(("clip_norm", "share"), [(None, 1.0), (10.0, 1.0), (0.5, 0.1)])
def test_a_step_goes_down_the_slope_at_the_rate_it_is_given(clip_norm, share):
    model, optimizer, loss = _slope(1.0, 2.0)
    training.descend(model, optimizer, loss, 0.1, clip_norm)
    assert [p.item() for p in model] == pytest.approx([1 - 0.3 * share, 2 - 0.4 * share], abs=1e-6)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]


def test_the_temperature_is_capped_at_a_scale_of_100():
    model = models.create("nano-xs", pretrained=None)
    for scale, capped in ((20.0, 20.0), (500.0, 100.0)):
        torch.nn.init.constant_(model.logit_scale, math.log(scale))
        training.cap_scale(model)
        assert model.logit_scale.exp().item() == pytest.approx(capped, rel=1e-5)


def test_crops_keep_constant_images_and_the_whole_image_where_nothing_may_be_cut():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 32, 32, 3), generator=generator, dtype=torch.uint8)
    assert torch.equal(finetune.crop(images, 1.0, generator), images.permute(0, 3, 1, 2))
    flat = torch.full((3, 32, 32, 3), 77, dtype=torch.uint8)
    assert (finetune.crop(flat, 0.5, generator) == 77).all()


def test_tuning_learns_and_leaves_the_temperature_alone(toy):
    model = models.create("nano-xs", pretrained=None)
    scale = model.logit_scale.item()
    recipe = finetune.Recipe(steps=30, batch=16, lr=1e-3, warmup=2, label_smoothing=0.0)
    log = finetune.tune(model, "nano-xs", toy, recipe)
    assert [row["step"] for row in log] == list(range(30))
    assert log[-1]["loss"] < 0.2 < log[0]["loss"]
    assert model.logit_scale.item() == scale and model.logit_scale.requires_grad


def test_an_interrupted_tuning_continues_bit_for_bit(toy, tmp_path, monkeypatch):
    recipe = finetune.Recipe(steps=8, batch=4, lr=1e-3, warmup=2)
    whole = models.create("nano-xs", pretrained=None)
    log = finetune.tune(whole, "nano-xs", toy, recipe, seed=5)

    monkeypatch.setattr(finetune, "CHECKPOINT_EVERY", 3)
    checkpoint = tmp_path / "tune.safetensors"

    def power_cut(model, images, labels, tokens, smoothing, calls=[]):  # noqa: B006  counts its own calls
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return finetune.class_loss(model, images, labels, tokens, smoothing)

    with pytest.raises(KeyboardInterrupt):
        finetune.tune(models.create("nano-xs", None), "nano-xs", toy, recipe, 5, loss=power_cut, checkpoint=checkpoint)
    resumed = models.create("nano-xs", pretrained=None)
    assert finetune.tune(resumed, "nano-xs", toy, recipe, seed=5, checkpoint=checkpoint) == log
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@given(st.lists(st.integers(0, 19), min_size=1, max_size=12), st.integers(2, 25), st.integers(0, 5))
def test_a_step_tells_its_own_classes_and_some_others_apart(labels, most, seed):
    """Every label still has its own text; as many classes as allowed, or as the batch holds; others vary by draw."""
    labels, tokens = torch.tensor(labels), torch.arange(20)[:, None] * 100
    among, texts = finetune.among(labels, tokens, most, training.generator(seed, 0))
    assert torch.equal(texts[among, 0], 100 * labels)
    assert len(texts) == min(20, max(most, len(labels.unique()))) == len(texts.unique())


def test_the_other_classes_of_a_step_are_drawn_afresh():
    labels, tokens = torch.tensor([3, 3, 7]), torch.arange(200)[:, None]
    drawn = [finetune.among(labels, tokens, 20, training.generator(0, step))[1] for step in range(40)]
    assert len(torch.cat(drawn).unique()) > 150 and not torch.equal(drawn[0], drawn[1])


def test_few_classes_are_all_told_apart_and_draw_nothing(toy):
    """A recipe with more classes than the task has is the recipe without a limit, bit for bit."""
    states = []
    for most in (None, len(toy.classes)):
        model = models.create("nano-xs", pretrained=None)
        finetune.tune(model, "nano-xs", toy, finetune.Recipe(steps=2, batch=4, lr=1e-3, warmup=1, classes=most))
        states.append(models.state(model))
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))


def test_tuning_limits_the_classes_of_every_step():
    data = datasets.limit(datasets.load("digits"), 4, 1)
    seen = []

    def loss(model, images, labels, tokens, smoothing):
        seen.append(len(tokens))
        return finetune.class_loss(model, images, labels, tokens, smoothing)

    recipe = finetune.Recipe(steps=3, batch=1, lr=1e-4, warmup=1, classes=2)
    finetune.tune(models.create("nano-xs"), "nano-xs", data, recipe, loss=loss)
    assert seen == [2, 2, 2]


@pytest.mark.parametrize(("templates", "asked"), [("first", 1), ("all", 5)])
def test_tuning_asks_in_the_first_template_or_in_one_of_all(templates, asked):
    data = datasets.limit(datasets.load("digits"), 4, 1)
    known = [prompts.tokens("nano-xs", data.classes, template) for template in data.templates]
    seen = []

    def loss(model, images, labels, tokens, smoothing):
        seen.append([torch.equal(tokens, each) for each in known].index(True))
        return finetune.class_loss(model, images, labels, tokens, smoothing)

    recipe = finetune.Recipe(steps=40, batch=1, lr=1e-4, warmup=1, templates=templates)
    finetune.tune(models.create("nano-xs", pretrained=None), "nano-xs", data, recipe, loss=loss)
    assert len(known) == 5 and set(seen) == set(range(asked))


def test_a_state_stays_what_it_was():
    model = models.create("nano-xs", pretrained=None)
    kept = models.state(model)
    with torch.no_grad():
        model.logit_scale += 1
    assert kept["logit_scale"] == model.logit_scale - 1 and kept.keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("wrong", "said"), [
        ({"lr": 0.0}, "lr: expected above 0, found 0.0"),
        ({"templates": "last"}, "templates: expected 'first' or 'all', found 'last'"),
        ({"classes": 1}, "classes: expected null or at least 2, found 1"),
        ({"steps": 5}, "warmup: expected between 0 and 5, the number of steps, found 100"),
        ({"scale_min": 1.5}, "scale_min: expected above 0 and at most 1, found 1.5"),
    ],
)
def test_an_impossible_recipe_is_refused(wrong, said):
    with pytest.raises(BadInput, match=said):
        finetune.Recipe(**wrong)


def test_matching_names_share_the_target():
    """Four pairs, two of them named alike: by hand, on orthogonal features."""
    image = text = torch.eye(4)[[0, 1, 2, 2]]
    loss = pretrain.contrastive(image, text, torch.tensor(2.0), ["a", "b", "c", "c"])
    row_alone = math.log(math.exp(2) + 3) - 2  # one match of logit 2 among three of logit 0
    row_shared = math.log(2 * math.exp(2) + 2) - 2  # two matches of logit 2, half a target each
    assert loss.item() == pytest.approx((2 * row_alone + 2 * row_shared) / 4, abs=1e-6)


def test_only_the_diagonal_matches_where_names_are_positions():
    """The last two pairs look alike, yet each text is right for its own image alone: one match of logit 2 in two."""
    image = text = torch.eye(4)[[0, 1, 2, 2]]
    loss = pretrain.contrastive(image, text, torch.tensor(2.0), range(4))
    row_alone = math.log(math.exp(2) + 3) - 2
    row_rival = math.log(2 * math.exp(2) + 2) - 2
    assert loss.item() == pytest.approx((2 * row_alone + 2 * row_rival) / 4, abs=1e-6)


@pytest.mark.parametrize(("whole", "gain"), [(False, 2.0), (True, 2.0 * (1 - 0.1 * 0.5))])
def test_what_weight_decay_acts_on(whole, gain):
    model = nn.LayerNorm(3)
    nn.init.constant_(model.weight, 2.0)
    model.weight.grad = torch.zeros(3)  # AdamW without a gradient: the decay alone, p ← p (1 − rate · decay)
    training.adamw(model, 0.1, 0.5, (0.9, 0.999), whole=whole).step()
    assert model.weight.tolist() == pytest.approx([gain] * 3)


def test_adaptation_learns_by_the_rule_it_is_given():
    images = torch.randint(0, 255, (4, 3, 32, 32), generator=training.generator(0, 0), dtype=torch.uint8)
    batch = pairs.Pairs(images, ["a cat.", "a photo of a cat.", "a dog.", "a cow."], ["cat", "cat", "dog", "cow"])
    losses = {}
    for positives in ("name", "diagonal"):
        model = models.create("nano-xs")
        recipe = adapt.Recipe(steps=1, batch=4, lr=1e-5, positives=positives)
        losses[positives] = adapt.adapt(model, "nano-xs", lambda _: batch, recipe)[0]["loss"]
    model = models.create("nano-xs")
    z, w = models.encode_image(model, images), models.encode_text(model, models.tokenizer("nano-xs")(batch.captions))
    logits, own = model.logit_scale.exp() * z @ w.T, torch.arange(4)
    by_hand = (nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.T, own)) / 2
    assert losses["diagonal"] == pytest.approx(by_hand.item(), rel=1e-4)
    assert losses["name"] != pytest.approx(losses["diagonal"], rel=1e-3)
    with pytest.raises(BadInput, match="positives: expected diagonal or name"):
        adapt.Recipe(positives="class")


def test_augmented_pictures_differ_from_step_to_step_but_not_from_run_to_run(pictures):
    kinds = ["icon", "emoji", "silhouette", "digit"]
    index = torch.tensor([0, 2, 3, 6])
    one, same, other = (augment.images(pictures, index, kinds, training.generator(0, s)) for s in (1, 1, 2))
    assert one.shape == (4, 3, 32, 32) and one.dtype == torch.uint8
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_ink_can_be_told_from_paper():
    ink, paper = augment.ink_and_paper(500, torch.Generator().manual_seed(0))
    luma = torch.tensor([0.299, 0.587, 0.114])
    contrast = ((ink - paper).squeeze() @ luma).abs()
    assert contrast.min() >= 0.35


def test_captions_fit_their_pictures(pictures, monkeypatch):
    recipe = {**pool.recipe(), "weights": {"icon": 0.25, "emoji": 0.25, "flag": 0.25, "digit": 0.25}}
    monkeypatch.setattr(pool, "recipe", lambda: recipe)
    index, kinds, names, captions = pairs.draw(pictures, 64, torch.Generator().manual_seed(0))
    assert set(kinds) == set(recipe["weights"])
    for i, kind, name, caption in zip(index.tolist(), kinds, names, captions, strict=True):
        assert pool.KINDS[pictures.kind[i]] == kind and name == pictures.names[i][0]
        assert any(caption == t.format(n) for t in recipe["templates"][kind] for n in pictures.names[i])


@pytest.mark.parametrize("recipe", ["recipe", "narrow"])
def test_pretraining_resumes_exactly(recipe, tmp_path, monkeypatch, small_pool):
    monkeypatch.setattr(pretrain, "CHECKPOINT_EVERY", 2)
    config = {**pretrain.recipe(recipe), "batch": 8, "warmup": 1}
    if recipe == "recipe":
        config |= {"web": 0.5, "watch": {"every": 2, "drawings": 2}, "snapshots": [2, 4]}
    log = pretrain.run("nano-xs", tmp_path / "whole", config, steps=5, progress=False)
    with monkeypatch.context() as power, pytest.raises(KeyboardInterrupt):
        power.setattr(training, "descend", _failing_at(4, training.descend))
        pretrain.run("nano-xs", tmp_path / "cut", config, steps=5, progress=False)
    again = pretrain.run("nano-xs", tmp_path / "cut", config, steps=5, progress=False)
    said = [[{**row, "seconds": 0} for row in each] for each in (log, again)]
    assert said[0] == said[1]
    for file in sorted(path.name for path in (tmp_path / "whole").glob("*[!t].safetensors")):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes(), file


def test_a_watched_pretraining_logs_held_out_pairs_and_keeps_snapshots(tmp_path, small_pool):
    config = {**pretrain.recipe(), "batch": 8, "warmup": 1, "watch": {"every": 2, "drawings": 2}, "snapshots": [2]}
    log = pretrain.run("nano-xs", tmp_path, config, steps=5, progress=False)
    assert [row["step"] for row in log if "web_loss" in row] == [1, 3, 4]
    pretrain.run("nano-xs", tmp_path / "to 2", {**config, "snapshots": []}, steps=5, stop=2, progress=False)
    kept = (tmp_path / "nano-xs-2.safetensors").read_bytes()
    assert kept == (tmp_path / "to 2" / "nano-xs.safetensors").read_bytes()
    assert kept != (tmp_path / "nano-xs.safetensors").read_bytes()


def test_watching_changes_nothing(tmp_path, small_pool):
    """Held-out pairs cost the trained ones nothing but themselves: looking at them draws and moves nothing."""
    config = {**pretrain.recipe(), "batch": 8, "warmup": 1, "snapshots": []}
    for every in (1, 99):
        watch = {"watch": {"every": every, "drawings": 2}}
        pretrain.run("nano-xs", tmp_path / str(every), config | watch, steps=3, progress=False)
    one, two = ((tmp_path / part / "nano-xs.safetensors").read_bytes() for part in ("1", "99"))
    assert one == two


def test_a_recipe_without_a_web_share_draws_from_the_whole_pool_alone(small_pool):
    source, watched = pretrain.corpus(pretrain.recipe("narrow"))
    batch, alone = source.batch(16, training.generator(0, 0)), pairs.drawings(small_pool, 16, training.generator(0, 0))
    assert watched == {} and torch.equal(batch.images, alone.images) and batch.captions == alone.captions


def test_the_web_s_share_of_a_batch(small_pool):
    source, _ = pretrain.corpus({**pretrain.recipe(), "watch": {"every": 1, "drawings": 2}})
    batch = source.batch(256, training.generator(0, 0))
    drawings = {name for names in small_pool.names for name in names}
    assert len(batch.images) == len(batch.captions) == 256
    assert sum(name not in drawings for name in batch.names) == 13


def test_held_out_pairs_are_graded_by_name(monkeypatch):
    """Orthogonal features: the text nearest to images 1 and 2 is the other one's, of the same name or of another."""
    model = models.create("nano-xs", pretrained=None)
    monkeypatch.setattr(models, "encode_image", lambda model, images: torch.eye(4)[[0, 1, 2]])
    monkeypatch.setattr(models, "encode_text", lambda model, tokens: torch.eye(4)[[0, 2, 1]])
    images = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    graded = {names[-1]: pairs.Pairs(images, ["one", "two", "three"], names) for names in (list("abb"), list("abc"))}
    found = pretrain.watch(model, lambda captions: captions, graded)
    assert found["b_recall"] == 1.0 and found["c_recall"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["b_loss"] < found["c_loss"]


def test_published_weights_stand_beside_others_of_their_name(tmp_path, monkeypatch, small_pool):
    config = {**pretrain.recipe(), "batch": 8, "warmup": 1, "watch": {"every": 2, "drawings": 2}, "snapshots": []}
    log = pretrain.run("nano-xs", tmp_path, config, steps=3, progress=False)
    pretrain.publish("nano-xs", tmp_path, log, config, tmp_path / "weights", "web")
    monkeypatch.setattr(models.paths, "manifests", lambda: tmp_path)
    found = models.create("nano-xs/web").state_dict()
    made = files.load_tensors(tmp_path / "nano-xs.safetensors")
    assert all(torch.equal(found[key], made[key]) for key in made)
    manifest = files.read_json(tmp_path / "weights" / "nano-xs-web.json")
    assert manifest["pairs"] == 24 and manifest["web"] == web.digest(web.load()) and "web sides" in manifest["licence"]
    curve = pd.read_csv(tmp_path / "weights" / "nano-xs-web.curve.csv")
    assert list(curve) == ["step", "loss", "drawings_loss", "drawings_recall", "web_loss", "web_recall"]
    assert curve.web_loss.notna().tolist() == [False, True, True] and curve.loss.notna().all()
    with pytest.raises(BadInput, match="nano-xs.json: expected a weights manifest"):
        models.create("nano-xs")


def test_a_snapshot_is_published_at_half_the_size_and_computes_in_fp32(tmp_path, monkeypatch, small_pool):
    config = {**pretrain.recipe(), "batch": 8, "warmup": 1, "watch": {"every": 2, "drawings": 2}, "snapshots": [2]}
    log = pretrain.run("nano-xs", tmp_path, config, steps=3, progress=False)
    pretrain.publish_snapshot("nano-xs", 2, tmp_path, log, config, tmp_path / "weights")
    monkeypatch.setattr(models.paths, "manifests", lambda: tmp_path)
    found, kept = models.create("nano-xs/2").state_dict(), files.load_tensors(tmp_path / "nano-xs-2.safetensors")
    assert all(torch.equal(found[key], kept[key].half().float()) for key in kept)
    assert files.read_json(tmp_path / "weights" / "nano-xs-2.json")["pairs"] == 16
    with pytest.raises(BadInput, match="nano-xs-1.safetensors: expected a snapshot"):
        pretrain.publish_snapshot("nano-xs", 1, tmp_path, log, config, tmp_path / "weights")


def _failing_at(call, fn):
    calls = []

    def wrapped(*args):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return fn(*args)

    return wrapped
