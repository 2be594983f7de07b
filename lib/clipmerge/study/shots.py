"""Few-shot learning: which images a learner owns that is given a handful of each class."""

import torch
from jaxtyping import Int64
from torch import Tensor

from clipmerge.errors import BadInput


def draw(labels: Int64[Tensor, " n"], shots: int, seed: int) -> Int64[Tensor, " m"]:
    """Indices of `shots` images of every class (all of a class that has fewer), sorted; another seed, another draw."""
    if shots < 1:
        raise BadInput(f"shots: expected at least 1 image of each class, found {shots}")
    generator, chosen = torch.Generator().manual_seed(seed), []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().squeeze(1)
        chosen.append(members[torch.randperm(len(members), generator=generator)[:shots]])
    return torch.cat(chosen).sort().values
