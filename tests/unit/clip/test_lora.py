"""LoRA leaves the base alone at zero B, trains its factors only, and equals the base plus s · B A."""

import pytest
import torch

from clipmerge.clip import datasets, finetune, lora, models
from clipmerge.errors import BadInput
from clipmerge.merge import deltas

NAME, RANK = "nano-xs", 4
TEXTS = ["a photo of a dog", "the digit 7"]


def outputs(model):
    """Image and text features of a few fixed inputs."""
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return models.encode_image(model, images), models.encode_text(model, models.tokenizer(NAME)(TEXTS))


def moved(seed=0):
    """Factors as tuning might leave them."""
    start = lora.initial(models.create(NAME), RANK, 0.01, 0.01, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    return {name: f + 0.1 * torch.randn(f.shape, generator=generator) for name, f in start.items()}


def test_at_zero_b_the_model_is_the_base_exactly():
    base = models.create(NAME)
    factors = lora.initial(base, RANK, 0.01, 0.0, seed=0)
    assert not any(change.any() for change in lora.product(factors).values())
    wrapped = lora.inject(models.create(NAME), factors)
    for name, layer in lora.layers(wrapped).items():
        x = torch.randn(5, layer.in_features)
        assert torch.equal(layer(x), base.get_submodule(name)(x))
    for ours, theirs in zip(outputs(wrapped), outputs(base), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)  # attention kernels may add in another order


def test_only_factors_train_and_their_number_follows_from_the_widths():
    base = models.create(NAME)
    linears = lora.layers(base)
    blocks = len(base.visual.transformer.resblocks) + len(base.transformer.resblocks)
    assert len(linears) == 2 * blocks
    wrapped = lora.inject(models.create(NAME), lora.initial(base, RANK, 0.01, 0.01, seed=0))
    trained = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    expected = RANK * sum(sum(layer.weight.shape) for layer in linears.values())
    assert sum(p.numel() for p in trained.values()) == expected


def test_the_product_on_the_base_gives_what_the_wrapped_model_gives():
    base, factors = models.create(NAME), moved()
    wrapped = lora.inject(models.create(NAME), factors)
    assert all(torch.equal(lora.read(wrapped)[name], factor) for name, factor in factors.items())
    before = outputs(base)
    base.load_state_dict(deltas.apply_delta(base.state_dict(), lora.product(factors)))
    for ours, theirs, untouched in zip(outputs(base), outputs(wrapped), before, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
        assert (ours - untouched).abs().max() > 1e-3


def test_the_product_is_pefts_own_delta():
    factors = moved()
    wrapped = lora.inject(models.create(NAME), factors)
    for name, layer in lora.layers(wrapped).items():
        torch.testing.assert_close(lora.product(factors)[f"{name}.weight"], layer.get_delta_weight(lora.ADAPTER))


def test_tuning_moves_every_factor_and_nothing_else():
    data = datasets.limit(datasets.load("digits"), 2, 1)
    wrapped = lora.inject(models.create(NAME), lora.initial(models.create(NAME), RANK, 0.01, 0.01, seed=0))
    before = {name: tensor.clone() for name, tensor in wrapped.state_dict().items()}
    finetune.tune(wrapped, NAME, data, finetune.Recipe(steps=2, batch=4, lr=1e-2, warmup=0))
    changed = {name for name, tensor in wrapped.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "lora_" in name}


def test_initial_factors_follow_their_seed():
    base = models.create(NAME)
    first, again, other = (lora.initial(base, RANK, 0.01, 0.01, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    assert torch.cat([f.flatten() for f in first.values()]).std().item() == pytest.approx(0.01, rel=0.05)


def test_bad_input_is_named():
    with pytest.raises(BadInput, match="rank: expected at least 1, found 0"):
        lora.initial(models.create(NAME), 0, 0.01, 0.0, seed=0)
    with pytest.raises(BadInput, match="expected a layer wrapped by `inject`"):
        lora.read(models.create(NAME))
