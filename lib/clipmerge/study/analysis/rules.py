"""ConDU taken apart: every part of unify and decouple as a few lines, each with its alternatives in one table.

A `Rule` says which alternative of each part is used; `RULES` lists those that are compared (Table 5 and what the
paper's reviewers asked for). ``Rule()``, all parts on, is `condu.unify`, `extend` and `decouple`, number for number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clipmerge.merge import condu

Delta = Mapping[str, Tensor]


@dataclass(frozen=True)
class Rule:
    """Which alternative of each part: keys of `SIGNS`, `POOLS`, `MASKS`, `condu.RESCALERS`; recursion or one shot."""

    sign: str = "sum"
    pool: str = "max"
    mask: str = "one-bit"
    rescaler: str = "tensor_mean"
    recursive: bool = True


def by_sum(deltas: Float[Tensor, "experts *n"]) -> Bool[Tensor, "*n"]:
    """The paper's election: the sign of the sum; a zero sum elects −1."""
    return sum(d.double() for d in deltas) > 0


def by_majority(deltas: Float[Tensor, "experts *n"]) -> Bool[Tensor, "*n"]:
    """One expert, one vote, whatever its magnitude; the sum breaks a tie."""
    votes = deltas.sign().sum(0)
    return torch.where(votes == 0, by_sum(deltas), votes > 0)


def by_largest(deltas: Float[Tensor, "experts *n"]) -> Bool[Tensor, "*n"]:
    """No election: the largest magnitude brings its sign along (MagMax)."""
    return deltas.amax(0) > -deltas.amin(0)


def strongest(deltas: Float[Tensor, "experts *n"], positive: Bool[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The paper's u: the largest magnitude among the values that carry the elected sign."""
    return torch.where(positive, deltas.amax(0), deltas.amin(0))


def mean_of_agreeing(deltas: Float[Tensor, "experts *n"], positive: Bool[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The mean of the values that carry the elected sign (TIES' disjoint mean)."""
    agree = torch.where(positive, deltas > 0, deltas < 0)
    return torch.where(agree, deltas, 0).sum(0) / agree.sum(0).clamp(min=1)


def two_bits(delta: Float[Tensor, "*n"], unified: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """A soft mask of four levels, 0 ⅓ ⅔ 1: how large this task's value is beside the one that was kept."""
    share = torch.where(condu.agree(delta, unified), delta / unified, 0)
    return (3 * share).round().clamp(max=3) / 3


SIGNS: Mapping[str, Callable] = {"sum": by_sum, "majority": by_majority, "largest": by_largest}
POOLS: Mapping[str, Callable] = {"max": strongest, "mean": mean_of_agreeing}
MASKS: Mapping[str, Callable] = {
    "one-bit": condu.agree,
    "two-bits": two_bits,
    "none": lambda delta, unified: torch.ones_like(delta, dtype=torch.bool),
}
CHANGES = (
    "rescaler=global_l1",
    "rescaler=none",
    "mask=none",
    "mask=two-bits",
    "sign=majority",
    "sign=largest",
    "pool=mean",
    "mask=none rescaler=none",
    "pool=mean rescaler=none",
    "pool=mean mask=none",
    "pool=mean mask=none rescaler=none",
)
RULES: Mapping[str, Rule] = {"condu-ft": Rule(), "emr": Rule(recursive=False)} | {
    name: Rule(**dict(part.split("=") for part in name.split())) for name in CHANGES
}


def unify(deltas: Sequence[Delta], rule: Rule) -> dict[str, Tensor]:
    """The unified delta u, tensor by tensor."""
    unified = {}
    for name in deltas[0]:
        stack = torch.stack([delta[name] for delta in deltas])
        unified[name] = POOLS[rule.pool](stack, SIGNS[rule.sign](stack))
    return unified


def decouple(delta: Delta, unified: Delta, rule: Rule) -> dict[str, Tensor]:
    """δ̃ = λ · M ⊙ u of one delta that went into u."""
    masked = {}
    for name, u in unified.items():
        mask = MASKS[rule.mask](delta[name], u)
        masked[name] = torch.where(mask > 0, u * mask, 0)
    scale = condu.rescaler(delta, masked, rule.rescaler)
    return {name: scale * part for name, part in masked.items()}


def learn(deltas: Sequence[Delta], rule: Rule) -> list[dict[str, Tensor]]:
    """Every task's reconstruction after the last session: session by session, or from all experts at once."""
    known: list = []
    for newcomer in deltas:
        known.append(newcomer)
        if rule.recursive or len(known) == len(deltas):
            unified = unify(known, rule)
            known = [decouple(delta, unified, rule) for delta in known]
    return known
