"""Exponential moving averages: fold any technique over a sequence of experts (TIME)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipmerge.errors import BadInput
from clipmerge.merge.registry import Number
from clipmerge.merge.techniques import State, find, merge

if TYPE_CHECKING:
    import torch


def pair(name: str, weight: Number | None = None) -> list[Number] | None:
    """Weights [w, 1 − w] of newcomer and running model, w = 0.5 by default as in TIME's code.

    None for techniques that take no weights: there TIME ignores w, here a given w is refused.
    """
    if not find(name).weighted:
        if weight is not None:
            raise BadInput(f"weight: {name} takes no weights, so its fold takes none either, found {weight}")
        return None
    weight = 0.5 if weight is None else weight
    if not 0 <= weight <= 1:
        raise BadInput(f"weight: expected a number between 0 and 1, found {weight:g}")
    return [weight, 1 - weight]


def step(name: str, expert: State, running: State, base: State, weight: Number | None = None, **options) -> dict:
    """One step r ← f(e, r), for those who carry r along."""
    return merge(name, [expert, running], base, weights=pair(name, weight), **options)


def fold(
    name: str,
    experts: Sequence[State],
    base: State,
    weight: Number | None = None,
    start: str = "first",
    **options: object,
) -> dict[str, "torch.Tensor"]:
    """r ← f(e_k, r) over all experts, oldest first: θ^EMA_k = w e_k + (1 − w) θ^EMA_{k−1} for the average.

    `start`: the fold begins with the "first" expert (TIME's double_merge) or the "base" (its ema_paint, zs_paint).
    Task-vector techniques refer to the base in every step.
    """
    if start not in ("first", "base"):
        raise BadInput(f"start: expected first or base, found {start!r}")
    if not experts:
        raise BadInput("ema: expected at least one expert, found none")
    running = dict(base if start == "base" else experts[0])
    for expert in experts[1:] if start == "first" else experts:
        running = step(name, expert, running, base, weight, **options)
    return running
