"""Who answers an image, with what weight, and what counts as right: the arithmetic of ConDU's inference (paper §4.3).

An image is answered by *members*: the base, always in column 0, and one expert for each task seen. A vote is a weighted
mean of their logits, so every variant of the rule (any K, with or without the base, any weighting) is one matrix of
weights [images, members] whose rows sum to one.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from clipmerge.clip import evaluate
from clipmerge.errors import BadInput

KINDS = ("mean", "similarity", "softmax")
SPACES = ("own", "seen", "union")


def weights(
    scores: Float[Tensor, "n tasks"], k: int, *, base: bool = True, kind: str = "mean", tau: float = 0.05
) -> Float[Tensor, "n members"]:
    """Weights of the base (column 0) and of each expert, for images whose similarity to each task is `scores`.

    The k most similar experts answer. ``mean`` gives all members the same weight (the authors' code), ``similarity``
    their score (what notes on the paper say), ``softmax`` exp(score / tau). The base has no score: where it answers it
    counts as much as the nearest expert, which for ``mean`` is the authors' rule.
    """
    if k < 0 or (k == 0 and not base):
        raise BadInput(f"k: expected at least {0 if base else 1} {'with' if base else 'without'} the base, found {k}")
    if kind not in KINDS:
        raise BadInput(f"kind: expected one of {', '.join(KINDS)}; found {kind!r}")
    if kind == "softmax" and not tau > 0:
        raise BadInput(f"tau: expected a number above 0, found {tau}")
    top = scores.amax(1, keepdim=True)
    strength = torch.cat([top, scores], 1)
    if kind == "mean":
        strength = torch.ones_like(strength)
    elif kind == "similarity":
        strength = strength.clamp(min=1e-6)  # cosines of near prototypes are far above zero; a weight must not be below
    else:
        strength = ((strength - top) / tau).exp()
    answering = torch.cat([torch.full((len(scores), 1), base), evaluate.nearest(scores, k)], 1)
    strength = strength * answering
    return strength / strength.sum(1, keepdim=True)


def fenced(margins: Float[Tensor, "n tasks"], tau: float) -> Float[Tensor, "n members"]:
    """Weights by softmax(m / τ), where the similarity to each task exceeds its radius by `margins`; the base has 0.

    Not the authors' rule: the base alone answers what lies outside of all radii (`routing.radius`).
    """
    return (torch.cat([torch.zeros(len(margins), 1), margins], 1) / tau).softmax(1)


def own(number: int, seen: int, n: int) -> Float[Tensor, "n members"]:
    """The weights of a known task: its own expert, number `number` of `seen`, answers all `n` images alone."""
    return torch.zeros(n, 1 + seen).index_fill_(1, torch.tensor([1 + number]), 1.0)


def only(member_weights: Float[Tensor, "n members"], tasks: int) -> Float[Tensor, "n all"]:
    """The weights of a session that has seen the first few of `tasks` tasks: later experts get none."""
    return torch.nn.functional.pad(member_weights, (0, 1 + tasks - member_weights.shape[1]))


def owners(sizes: Sequence[int]) -> Int64[Tensor, " classes"]:
    """For each column of the union label space the number of the task it belongs to."""
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(list(sizes)))


def allowed(owner: Int64[Tensor, " classes"], task: int, seen: int, space: str) -> Bool[Tensor, " classes"]:
    """Which classes may be answered for an image of `task` when the first `seen` tasks have been learned.

    ``own``: those of its own task; ``seen``: of all tasks learned so far and of its own; ``union``: of all tasks.
    """
    if space not in SPACES:
        raise BadInput(f"label space: expected one of {', '.join(SPACES)}; found {space!r}")
    if space == "own":
        return owner == task
    return (owner < seen) | (owner == task) if space == "seen" else torch.ones_like(owner, dtype=torch.bool)


def hits(
    logits: Float[Tensor, "n ... classes"],
    labels: Int64[Tensor, " n"],
    owner: Int64[Tensor, " classes"],
    task: int,
    within: Bool[Tensor, "... classes"],
) -> Bool[Tensor, "n ..."]:
    """Whether the highest logit among the classes `within` is the true one; `labels` count within the image's task."""
    first = int((owner == task).nonzero()[0])
    answer = logits.masked_fill(~within, -torch.inf).argmax(-1)
    return answer == (labels + first).reshape(-1, *[1] * (answer.ndim - 1))
