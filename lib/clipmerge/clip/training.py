"""What every training loop here shares: the learning-rate curve, random draws by step, exact checkpoints.

A loop is a pure function of (seed, step): the batch of step s is drawn from a generator seeded with both, so resuming
at step s needs no state of a sampler and continues bit for bit.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from clipmerge import files
from clipmerge.clip import device
from clipmerge.clip.data import packs
from clipmerge.clip.data.threads import in_order

Batch = TypeVar("Batch")


def rate(step: int, total: int, peak: float, warmup: int, floor: float = 0.0) -> float:
    """Learning rate at `step`: linear warm-up to `peak` over `warmup` steps, then cosine to `floor`·`peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def generator(seed: int, step: int) -> torch.Generator:
    """The generator of one training step; neighbouring seeds and steps share no draws."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 2_654_435_761 % 2**63)


def batches(draw: Callable[[int], Batch], steps: range) -> Iterator[Batch]:
    """``draw(step)`` for every step, in order; a GPU does not wait for them: threads draw some steps ahead.

    What `draw` gives must be a function of the step alone, so who draws it, and when, cannot be told from it.
    """
    if device.here().type == "cpu":  # its cores are busy training
        return map(draw, steps)
    return in_order(draw, steps, packs.THREADS, packs.THREADS)


def adamw(
    model: nn.Module, lr: float, decay: float, betas: tuple[float, float], whole: bool = False
) -> torch.optim.AdamW:
    """AdamW over what is trainable; gains, biases and the temperature are not decayed, unless `whole`."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": decay if whole else 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for _, p in named)  # one kernel a tensor: a fifth less time a step
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=fused)


def descend(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, lr: float, clip_norm: float | None = None
) -> None:
    """One step down the gradient of `loss` at the rate `lr`; a gradient longer than `clip_norm` is cut to that."""
    optimizer.zero_grad()
    loss.backward()
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()


def cap_scale(model: nn.Module) -> None:
    """Keep CLIP's learned temperature where its authors do: similarities are scaled by 100 at most."""
    with torch.no_grad():
        model.logit_scale.clamp_(max=math.log(100))


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, log: list) -> None:
    """Write a checkpoint: weights, optimiser moments, the next step and the log so far (safetensors, atomic)."""
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in model.state_dict().items()}
    for name, p in model.named_parameters():
        tensors |= {f"adam.{name}.{k}": v for k, v in optimizer.state.get(p, {}).items()}
    files.save_tensors(path, tensors, meta={"step": step, "log": log})


def resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list]:
    """Continue from a checkpoint if there is one: returns the next step and the log (0 and [] otherwise)."""
    if not path.exists():
        return 0, []
    tensors, meta = files.load_tensors(path), files.load_meta(path)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    for name, p in model.named_parameters():
        own = {k: tensors.get(f"adam.{name}.{k}") for k in ("step", "exp_avg", "exp_avg_sq")}
        if p.requires_grad and own["step"] is not None:
            optimizer.state[p] = own
    return meta["step"], meta["log"]
