"""LiNeS: scale what is merged layer by layer, shallow layers less than deep ones (arXiv 2410.17146)."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from clipmerge.merge.registry import Block, Number, among

SHAPES: dict[str, Callable[[float], float]] = {"linear": float, "quadratic": lambda x: x * x, "sqrt": math.sqrt}
BLOCK_OF_TOWER = re.compile(r"^(.*?)(?:resblocks|blocks|layers)\.(\d+)\.")


@dataclass(frozen=True)
class Lines:
    """A modifier of any technique: the factor of layer ℓ of L is α + β g(ℓ / (L − 1)); outside the blocks it is α.

    It takes the place of the technique's `scale`. `of="update"`: θ⁰ + factor · (θ − θ⁰), LiNeS as published. For plain
    interpolation TIME's code multiplies the merged *weights* instead, which shrinks the model: `of="weights"`.
    """

    alpha: Number = 0.5
    beta: Number = 0.5
    shape: str = "linear"
    of: str = "update"

    def __post_init__(self) -> None:
        among("lines shape", self.shape, tuple(SHAPES))
        among("lines of", self.of, ("update", "weights"))

    def factors(self, names: Iterable[str]) -> dict[str, Number]:
        """The factor of every tensor, layers counted tower by tower."""
        places = {name: match.groups() for name in names if (match := BLOCK_OF_TOWER.match(name))}
        last: dict[str, int] = {}
        for tower, layer in places.values():
            last[tower] = max(last.get(tower, 0), int(layer))

        def factor(name: str) -> Number:
            if name not in places:
                return self.alpha
            tower, layer = places[name]
            return self.alpha + self.beta * SHAPES[self.shape](int(layer) / max(last[tower], 1))

        return {name: factor(name) for name in names}

    def apply(self, merged: np.ndarray, block: Block, factor: Number) -> np.ndarray:
        """Scale one merged block."""
        return factor * merged if self.of == "weights" else block.base + factor * (merged - block.base)
