"""Deltas: what fine-tuning changed, δ = θ − θ⁰, on state dicts that are first checked to be comparable."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clipmerge.errors import BadInput
from clipmerge.merge.layout import Layout, check_layout


def floats(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the floating-point tensors, sorted: the part of a model that is merged."""
    return sorted(name for name, tensor in state.items() if tensor.is_floating_point())


def delta(expert: Mapping[str, Tensor], base: Mapping[str, Tensor], label: str = "the expert") -> dict[str, Tensor]:
    """δ = θ − θ⁰ for every floating-point tensor, in fp32; integer buffers are left out (they must equal the base's).

    Raises BadInput if keys, shapes or dtypes differ, or if a tensor holds NaN or Inf; `label` names the expert there.
    """
    check_compatible(base, [expert], [label])
    out = {}
    for name in floats(base):
        wide = torch.promote_types(base[name].dtype, torch.float32)  # `layout.master`
        out[name] = expert[name].detach().to(wide) - base[name].detach().to(wide)
        check_finite(out[name], name, label)
    return out


def apply_delta(base: Mapping[str, Tensor], delta: Mapping[str, Tensor], scale: int | float = 1.0) -> dict[str, Tensor]:
    """θ⁰ + scale · δ, in the base's dtypes; tensors without a delta are the base's own.

    Always computed from the base: adding and subtracting in turns drifts (7e-9 after 50 turns in fp32).
    """
    for name, change in delta.items():
        if name not in base or base[name].shape != change.shape:
            found = tuple(base[name].shape) if name in base else "no such tensor"
            raise BadInput(f"{name}: the delta has shape {tuple(change.shape)}, the base has {found}")
    moved = {name: (base[name] + scale * change).to(base[name].dtype) for name, change in delta.items()}
    return {name: moved.get(name, tensor) for name, tensor in base.items()}


def check_compatible(
    base: Mapping[str, Tensor], experts: Sequence[Mapping[str, Tensor]], labels: Sequence[str] | None = None
) -> None:
    """Refuse experts that cannot be merged with `base`: other keys, shapes, dtypes, or other integer buffers.

    The error lists up to ten offending keys and names the expert by its label (its position if there are none).
    """
    for position, expert in enumerate(experts):
        label = labels[position] if labels else f"expert {position}"
        check_layout(layout(base), layout(expert), label)
        for name in sorted(base.keys() - set(floats(base))):
            if not torch.equal(base[name], expert[name]):
                raise BadInput(f"{label}: {name} ({base[name].dtype}) is not merged and should equal the base's values")


def layout(state: Mapping[str, Tensor]) -> Layout:
    """Shape and number format of every tensor: all that can be known from a file's header."""
    return {name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in state.items()}


def check_finite(tensor: Tensor, name: str, label: str) -> None:
    """Raise BadInput, naming tensor and expert, if a value is NaN or infinite."""
    if not torch.isfinite(tensor).all():
        raise BadInput(f"{label}: {name} should hold finite numbers, found NaN or Inf")
