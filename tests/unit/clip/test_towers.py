"""Towers: what is left out changes neither features nor gradients of open_clip's own."""

import open_clip
import pytest
import torch
from torch.nn import functional as F

from clipmerge.clip import models, towers

ALIKE = [f"a picture of the flag of {name}" for name in ("dog", "bosnia and herzegovina", "7", "dog", "sea")]
TEXTS = {
    "of one template": ALIKE,
    "of their own": ["a dog", "the flag of bosnia and herzegovina", "7"],
    "all the same": ["a picture of a dog"] * 2,
    "one": ["a picture of a dog"],
}


@pytest.fixture(scope="module")
def lean():
    return models.create("nano-xs", pretrained=None)


@pytest.fixture(scope="module")
def plain(lean):
    """The same weights in the blocks that open_clip builds itself."""
    return models.load(open_clip.create_model("nano-xs"), lean.state_dict()).eval()


def with_gradients(model, features):
    """Unit features, and the gradients of a sum that weighs every coordinate differently."""
    model.zero_grad()
    found = features()
    (found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found.detach(), gradients


def same(one, other):
    torch.testing.assert_close(one[0], other[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(one[1], other[1], atol=1e-5, rtol=1e-4)


def test_lean_blocks_are_open_clips_other_kind(lean, plain):
    kinds = [type(model.visual.transformer.resblocks[0]) for model in (lean, plain)]
    assert kinds == [open_clip.transformer.CustomResidualAttentionBlock, open_clip.transformer.ResidualAttentionBlock]


@pytest.mark.parametrize("blocks", ["lean", "plain"])
def test_images_are_those_of_open_clip(blocks, plain, request):
    model = request.getfixturevalue(blocks)
    images = torch.randint(256, (5, 32, 32, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    ours = with_gradients(model, lambda: models.encode_image(model, images))
    same(ours, with_gradients(plain, lambda: F.normalize(plain.encode_image(models.pixels(images, plain)), dim=-1)))


@pytest.mark.parametrize("texts", TEXTS)
@pytest.mark.parametrize("blocks", ["lean", "plain"])
def test_texts_are_those_of_open_clip(blocks, texts, plain, request):
    model, tokens = request.getfixturevalue(blocks), models.tokenizer("nano-xs")(TEXTS[texts])
    theirs = with_gradients(plain, lambda: F.normalize(plain.encode_text(tokens), dim=-1))
    for pieces in (1, 2):
        same(with_gradients(model, lambda n=pieces: models.encode_text(model, tokens, n)), theirs)


def test_only_what_follows_a_common_beginning_is_computed_for_each_text(lean, monkeypatch):
    tokenize, seen = models.tokenizer("nano-xs"), []
    beginning = int(tokenize(["a picture of the flag of"]).argmax())  # its end token is the largest of all
    monkeypatch.setattr(towers, "_after", lambda block, prefix, x, mask: seen.append(prefix.shape[1]) or (prefix, x))
    models.encode_text(lean, tokenize(ALIKE))
    assert seen == [beginning] * (len(lean.transformer.resblocks) - 1), "the last block computes it for no text"


def test_who_listens_in_to_a_block_hears_every_token():
    model, heard = models.create("nano-xs", pretrained=None), []
    tokens = models.tokenizer("nano-xs")(ALIKE)
    for block in (model.visual.transformer.resblocks[-1], model.transformer.resblocks[-1]):
        block.mlp.register_forward_hook(lambda _, args, __: heard.append(tuple(args[0].shape[:2])))
    models.encode_image(model, torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
    models.encode_text(model, tokens)
    assert heard == [(2, 17), (5, int(tokens.argmax(-1).max()) + 1)]
