"""LoRA (arXiv 2106.09685) on the MLP linears of both towers, as ConDU uses it: W x + s · B A x, only A and B train.

The `peft` library wraps the layers of a model in place, so that it stays open_clip's CLIP. A LoRA model is described by
its *factors*: ``<layer>.A`` [rank, in] and ``<layer>.B`` [out, rank] for every layer. The scale is s = 1/√rank.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from clipmerge.errors import BadInput

TARGETS = ("c_fc", "c_proj")  # the two linears of every MLP, by the last part of their names
ADAPTER = "default"  # peft's name of the one adapter there is


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """The MLP linears of both towers by name, wrapped or not."""
    return {name: layer for name, layer in model.named_modules() if name.rpartition(".")[2] in TARGETS}


def initial(model: nn.Module, rank: int, sd_a: float, sd_b: float, seed: int) -> dict[str, Tensor]:
    """Factors to start from, A ~ N(0, sd_a²) and B ~ N(0, sd_b²), for a model that is not wrapped yet.

    The authors' code draws both with 0.01, so its starting point is not quite the base; LoRA's own has ``sd_b = 0``.
    """
    if rank < 1:
        raise BadInput(f"LoRA: rank: expected at least 1, found {rank}")
    generator, factors = torch.Generator().manual_seed(seed), {}
    for name, layer in layers(model).items():
        outputs, inputs = layer.weight.shape
        factors[f"{name}.A"] = sd_a * torch.randn(rank, inputs, generator=generator)
        factors[f"{name}.B"] = sd_b * torch.randn(outputs, rank, generator=generator)
    return factors


def inject(model: nn.Module, factors: Mapping[str, Tensor]) -> nn.Module:
    """Wrap the layers of `model` in place, starting from `factors`; from then on nothing but factors trains."""
    try:
        import peft
    except ImportError:
        raise BadInput("LoRA: expected the package peft (pip install clipmerge[lora])") from None
    rank = next(factor.shape[0] for name, factor in factors.items() if name.endswith(".A"))
    settings = {"target_modules": list(TARGETS), "lora_alpha": 1, "use_rslora": True}  # scale: alpha / √rank
    peft.inject_adapter_in_model(peft.LoraConfig(r=rank, **settings), model)
    with torch.no_grad():
        for name, own in _parameters(model).items():
            own.copy_(factors[name])
    return model


def read(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the factors of a wrapped model, on the CPU."""
    return {name: factor.detach().cpu().clone() for name, factor in _parameters(model).items()}


def product(factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the factors change in the dense weights: ``s · B A`` by the layer's ``.weight``, a delta from the base."""
    change = {}
    for name in (key.removesuffix(".A") for key in factors if key.endswith(".A")):
        a, b = factors[f"{name}.A"], factors[f"{name}.B"]
        change[f"{name}.weight"] = a.shape[0] ** -0.5 * (b @ a)
    return change


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    found = {}
    for name, layer in layers(model).items():
        if not hasattr(layer, "lora_A"):
            raise BadInput(f"LoRA: {name}: expected a layer wrapped by `inject`, found a plain {type(layer).__name__}")
        found |= {f"{name}.A": layer.lora_A[ADAPTER].weight, f"{name}.B": layer.lora_B[ADAPTER].weight}
    return found
