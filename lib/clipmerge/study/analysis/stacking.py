"""Asking K experts at once: their image towers stacked along a new axis and run as one, or one after the other.

The two give the same logits up to rounding. Text heads do not depend on the image and are computed beforehand.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from clipmerge import files
from clipmerge.clip import evaluate, models, prompts
from clipmerge.merge import condu, deltas
from clipmerge.study import experts
from clipmerge.study.analysis import timing
from clipmerge.study.condu import sessions

State = Mapping[str, Tensor]


def tower(base: State, delta: State) -> dict[str, Tensor]:
    """The image tower's part of θ⁰ + δ, under the tower's own names."""
    part = {key: value for key, value in base.items() if key.startswith("visual.")}
    moved = deltas.apply_delta(part, {key: value for key, value in delta.items() if key in part})
    return {key.removeprefix("visual."): value for key, value in moved.items()}


def stack(states: Sequence[State]) -> dict[str, Tensor]:
    """Every tensor of K states stacked: [K, …]. (`torch.func.stack_module_state` does this for modules.)"""
    return {key: torch.stack([state[key] for state in states]) for key in states[0]}


def answer(
    visual: nn.Module, state: State, head: Float[Tensor, "classes dim"], x: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, "n classes"]:
    """Logits 100·cos of one expert, whose image tower has the weights `state`."""
    z = F.normalize(functional_call(visual, dict(state), (x,)), dim=-1)
    return evaluate.SCALE * z @ head.T


def looped(
    visual: nn.Module, states: Sequence[State], heads: Float[Tensor, "k classes dim"], x: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, "k n classes"]:
    """One expert after the other."""
    return torch.stack([answer(visual, state, head, x) for state, head in zip(states, heads, strict=True)])


def stacked(
    visual: nn.Module, states: State, heads: Float[Tensor, "k classes dim"], x: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, "k n classes"]:
    """All experts as one model: `states` comes from `stack`, and each layer becomes a batched matrix product."""
    with composed_attention():
        return vmap(lambda state, head: answer(visual, state, head, x))(dict(states), heads)


@contextmanager
def composed_attention() -> Iterator[None]:
    """Attention as a composition of matrix products: its fused kernels know nothing of a further, stacked axis."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@torch.no_grad()
def measure(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: seconds and peak bytes of the answer of the base and K experts, by way, batch and K.

    Ways: ``base`` (K = 0), ``loop`` and ``stacked`` with every expert's tower held ready, and ``decouple`` as a loop
    that holds u and the triggers only and brings back one expert at a time. Peak bytes hold the towers (of ``decouple``
    one dense delta), inputs and intermediate results; what all ways share, base and unified delta, is not counted.
    """
    name, data = config["model"], experts.dataset(config["task"])
    model = models.create(name)
    unified = sessions.load(inputs["session"])
    base = models.state(model)
    towers, heads = [], []
    for change in ({}, *(condu.decouple(unified, i) for i in range(max(config["k"])))):
        towers.append(tower(base, change))
        model.load_state_dict(deltas.apply_delta(base, change))
        heads.append(prompts.head(model, name, data.classes, data.templates[:1]))
    heads = torch.stack(heads)
    times = []
    for batch in config["batches"]:
        x = models.pixels(data.train_images[:batch], model)
        for k in (0, *config["k"]):
            members, some = towers[: k + 1], heads[: k + 1]
            for way, run in _ways(model.visual, base, unified, members, some, x).items():
                held = sum(tensor.nbytes for member in members for tensor in member.values())
                held = held // (k + 1) if way == "decouple" else held
                taken = {"seconds": timing.seconds(run, config["repeats"]), "bytes": held + timing.peak(run)}
                times.append({"way": way, "batch": batch, "k": k} | taken)
    files.write_json(out / timing.TIMES, times)


def _ways(
    visual: nn.Module, base: Mapping, unified: condu.Unified, towers: Sequence[Mapping], heads: Tensor, x: Tensor
) -> dict[str, Callable[[], Tensor]]:
    """By name of the way: the call that gives the mean of all members' logits."""

    def looped_mean() -> Tensor:
        return looped(visual, towers, heads, x).mean(0)

    def decoupled_mean() -> Tensor:
        total = answer(visual, towers[0], heads[0], x)
        for i, head in enumerate(heads[1:]):
            total += answer(visual, tower(base, condu.decouple(unified, i)), head, x)  # nobody holds two at once
        return total / len(heads)

    if len(towers) == 1:
        return {"base": looped_mean}
    together = stack(towers)
    return {
        "loop": looped_mean,
        "stacked": lambda: stacked(visual, together, heads, x).mean(0),
        "decouple": decoupled_mean,
    }
