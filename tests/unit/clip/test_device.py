"""Compute: what a profile asks for is what models get, and nothing else is."""

import pytest
import torch

from clipmerge.clip import device, models
from clipmerge.clip.compute import Compute
from clipmerge.errors import BadInput

IMAGES = torch.randint(0, 256, (5, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine that says it has two GPUs (nothing is computed on them)."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_models_stay_on_the_cpu_unless_asked():
    assert device.here() == torch.device("cpu")
    assert next(models.create("nano-xs").parameters()).device.type == "cpu"


def test_models_go_where_the_profile_says(monkeypatch):
    monkeypatch.setattr(device, "resolve", lambda kind, slot: torch.device({"cuda": "meta"}[kind], slot))
    with device.using({"device": "cuda", "autocast": "none"}, slot=1):
        model = models.create("nano-xs")
    assert {p.device for p in model.parameters()} == {torch.device("meta")}


def test_workers_share_gpus_by_their_number(two_gpus):
    assert [device.resolve("auto", slot) for slot in range(3)] == [
        torch.device("cuda", 0),
        torch.device("cuda", 1),
        torch.device("cuda", 0),
    ]
    assert device.resolve("cpu", 1) == torch.device("cpu")


def test_what_numbers_depend_on_is_what_was_asked_for(two_gpus):
    assert Compute("auto", workers=7).numerics == {"device": "auto", "autocast": "none"}


def test_half_precision_only_where_it_is_asked_for():
    model = models.create("nano-xs")
    full = models.encode_image(model, IMAGES)
    with device.using({"device": "cpu", "autocast": "bf16"}):
        half = models.encode_image(model, IMAGES)
        texts = models.encode_text(model, models.tokenizer("nano-xs")(["a bird", "a cat"]))
    assert half.dtype == texts.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.05
    torch.testing.assert_close(half.norm(dim=1), torch.ones(5))
    assert torch.equal(models.encode_image(model, IMAGES), full)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Compute(workers=0), "workers: expected at least 1, found 0"),
        (lambda: device.resolve("tpu"), "compute.device: expected one of auto, cpu, cuda, mps; found 'tpu'"),
        (lambda: device.resolve("cuda"), "compute.device: expected cuda on this machine, found none"),
    ],
)
def test_bad_places_are_refused(make, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match=said):
        make()
