"""Seeded splits: which images of a set are its test part, as a function of their number and a seed alone."""

import hashlib

import torch
from jaxtyping import Int64
from torch import Tensor

from clipmerge.clip.data.external import Split
from clipmerge.errors import BadInput


def positions(n: int, train: float, seed: int) -> tuple[Int64[Tensor, " a"], Int64[Tensor, " b"]]:
    """Sorted train and test positions among `n` images: ⌊train·n⌋ heads of a seeded permutation, and the rest.

    This is the rule of ZSCL's code (``random_split`` with a generator seeded with 42, over images sorted by label and
    file name). Its SUN397 split cannot be had again: there the order was that of the authors' file system.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    size = int(train * n)
    return order[:size].sort().values, order[size:].sort().values


def digest(test: Int64[Tensor, " n"]) -> str:
    """sha256 of the positions, written in decimal with commas."""
    return hashlib.sha256(",".join(map(str, test.tolist())).encode()).hexdigest()


def seeded(split: Split, n: int, title: str) -> tuple[Int64[Tensor, " a"], Int64[Tensor, " b"]]:
    """`positions` under a manifest's rule, checked against the digest it states."""
    train, test = positions(n, split.train, split.seed)
    if digest(test) != split.digest:
        raise BadInput(
            f"{title}: expected a test part with digest {split.digest}, found {digest(test)}; {n} images may be the"
            " wrong number, or this version of torch permutes in another way"
        )
    return train, test
