"""The plain way to merge, as a yardstick for the benchmark: every model whole in memory, one torch operation at a time.

Written from the formulas, in the manner of the field's reference implementations: load all experts, subtract the base,
walk over the state dict with one dense temporary per operation, save. Masks are booleans of one byte per parameter.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from clipmerge.merge import folder

State = dict[str, Tensor]


def average(base: Path, experts: Sequence[Path], out: Path) -> None:
    """θ = mean of the experts."""
    states = [load_file(path) for path in experts]
    save_file({name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}, out)


def ties(base: Path, experts: Sequence[Path], out: Path, keep: float = 0.2) -> None:
    """θ⁰ + mean of the agreeing entries of the flattened deltas, each trimmed to its largest 20 %."""
    origin = load_file(base)
    names = sorted(origin)
    start = torch.cat([origin[name].flatten() for name in names])
    deltas = torch.stack([torch.cat([state[name].flatten() for name in names]) for state in map(load_file, experts)])
    deltas -= start
    rank = deltas.shape[1] - int(keep * deltas.shape[1])
    for delta in deltas:
        delta *= delta.abs() >= delta.abs().kthvalue(rank).values
    sign = torch.sign(deltas.sum(0))
    sign = torch.where(sign == 0, torch.sign(sign.sum()), sign)
    deltas *= deltas * sign > 0
    merged = start + deltas.sum(0) / (deltas != 0).sum(0).clamp(min=1)
    parts = merged.split([origin[name].numel() for name in names])
    save_file({name: part.view_as(origin[name]).clone() for name, part in zip(names, parts, strict=True)}, out)


def unify(base: Path, experts: Sequence[Path], out: Path) -> None:
    """Elect, mask and rescale the deltas of all experts."""
    origin = load_file(base)
    deltas = []
    for path in experts:
        state = load_file(path)
        deltas.append({name: state[name] - origin[name] for name in origin})
    _unify(deltas, out)


def extend(base: Path, unified: Path, expert: Path, out: Path) -> None:
    """Rebuild every earlier delta whole, add the newcomer's, unify."""
    origin, state, earlier = load_file(base), load_file(expert), folder.load(unified)
    deltas = []
    for trigger in earlier.triggers:
        masks = {name: mask.unpack() for name, mask in trigger.mask.items()}
        deltas.append({name: trigger.rescaler * (masks[name] * u) for name, u in earlier.delta.items()})
    deltas.append({name: state[name] - origin[name] for name in origin})
    _unify(deltas, out)


def _unify(deltas: Sequence[State], out: Path) -> None:
    signs = {name: torch.where(sum(d[name] for d in deltas) > 0, 1.0, -1.0) for name in deltas[0]}
    unified = {name: torch.zeros_like(sign) for name, sign in signs.items()}
    for delta in deltas:
        for name, sign in signs.items():
            unified[name] = torch.maximum(unified[name], delta[name].abs() * (delta[name] * sign > 0))
    unified = {name: u * signs[name] for name, u in unified.items()}
    masks = [{name: delta[name] * u > 0 for name, u in unified.items()} for delta in deltas]
    scales = [_magnitude(d) / _magnitude({n: m[n] * unified[n] for n in m}) for d, m in zip(deltas, masks, strict=True)]
    out.mkdir()
    save_file(unified, out / "unified.safetensors")
    save_file({"rescalers": torch.tensor(scales)}, out / "rescalers.safetensors")
    for task, mask in enumerate(masks):
        save_file(mask, out / f"{task}.safetensors")


def _magnitude(state: Mapping[str, Tensor]) -> float:
    return sum(tensor.abs().mean().item() for tensor in state.values())
