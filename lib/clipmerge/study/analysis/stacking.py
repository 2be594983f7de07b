"""Asking K experts at once: their image towers stacked along a new axis and run as one, or one after the other.

The two give the same logits up to rounding. Text heads do not depend on the image and are computed beforehand.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from clipmerge.clip import evaluate
from clipmerge.merge import deltas

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
