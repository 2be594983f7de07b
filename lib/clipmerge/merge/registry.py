"""What a merging technique is: a recipe for one block of weights, found by name.

A recipe only ever sees a block: the same few thousand coordinates of the base and of every expert. It computes in fp64.
So the same recipe serves models in memory and files of any size, with the same bits, and rounds once, at the end.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, UInt32

from clipmerge.errors import BadInput
from clipmerge.merge import loops

Number = int | float


@dataclass(frozen=True)
class Block:
    """Coordinates start … start + n of one tensor, in every model: columns low … high of what was read of it."""

    name: str
    start: int
    low: int
    high: int
    rows: Float[np.ndarray, "experts chunk"]  # as read: fp32, or fp64 for an fp64 model
    origin: Float[np.ndarray, " chunk"] | None = None  # the base, unless the recipe said that it does without
    diagonals: Float[np.ndarray, "experts chunk"] | None = None  # of the Fisher information
    weights: tuple[float, ...] = ()
    seed: int = 0
    cuts: Sequence[Sequence[float]] = ()  # per expert, the magnitudes at the ranks that the recipe asked for
    known: object = None  # what the recipe concluded from its measurements

    def empty(self, *more: int) -> Float[np.ndarray, "*more n"]:
        """Room for a result, fp64."""
        return np.empty((*more, self.high - self.low))

    @cached_property
    def base(self) -> Float[np.ndarray, " n"]:
        """θ⁰, fp64."""
        return self.origin[self.low : self.high].astype(np.float64)

    @cached_property
    def deltas(self) -> Float[np.ndarray, "experts n"]:
        """τ_k = θ_k − θ⁰, fp64."""
        out = self.empty(len(self.rows))
        loops.subtract(self.rows, self.origin, self.low, self.high, out)
        return out

    def drawn(self, expert: int = 0) -> UInt32[np.ndarray, " n"]:
        """Random numbers that depend on the seed, the tensor's name, the expert and the place: not on who asks."""
        key = f"{self.seed}/{self.name}/{expert}/{self.start}"
        state = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
        out = np.empty(self.high - self.low, np.uint32)
        loops.drawn(np.uint32(state % 2**32), out)
        return out


@dataclass(frozen=True)
class Recipe:
    """How a technique merges one block, and what it must know of the whole models beforehand.

    ranks: for a flat vector of n magnitudes, the ranks (1 = smallest) whose values the recipe wants as `block.cuts`;
    per: what "flat vector" means, the whole "model", each "tower" or each "tensor";
    measure: numbers of one block (with `cuts` known), which are added up exactly over each tensor;
    conclude: makes `block.known` of those sums, given by tensor name;
    fishers: whether it needs a Fisher diagonal for every expert; base: whether it needs the base.
    """

    merge: Callable[[Block], np.ndarray]
    ranks: Callable[[int], Sequence[int]] | None = None
    per: str = "model"
    measure: Callable[[Block], Sequence[float]] | None = None
    conclude: Callable[[Mapping[str, list[float]]], object] = lambda sums: sums
    fishers: bool = False
    base: bool = True


@dataclass(frozen=True)
class Technique:
    """A named way to merge; `build(**options)` gives its recipe, `formula` is its docstring.

    symmetric: the order of the experts does not matter; pair: takes exactly two; random: draws random numbers;
    weighted: takes one weight per expert.
    """

    name: str
    build: Callable[..., Recipe]
    symmetric: bool
    pair: bool
    random: bool
    weighted: bool

    @property
    def formula(self) -> str:
        """Formula, source, defaults, and where TIME's code differs."""
        return inspect.getdoc(self.build) or ""

    @property
    def options(self) -> dict[str, object]:
        """Names and defaults of the options."""
        return {name: p.default for name, p in inspect.signature(self.build).parameters.items()}

    def recipe(self, options: Mapping[str, object]) -> Recipe:
        """Build the recipe; an unknown option is refused by name."""
        unknown = sorted(options.keys() - self.options.keys())
        if unknown:
            known = ", ".join(self.options) or "none at all"
            raise BadInput(f"{self.name}: expected options among {known}, found {unknown[0]!r}")
        return self.build(**options)


REGISTRY: dict[str, Technique] = {}


def technique(symmetric: bool = True, pair: bool = False, random: bool = False, weighted: bool = False) -> Callable:
    """Enter the decorated recipe builder into the registry under its own name."""

    def enter(build: Callable[..., Recipe]) -> Callable[..., Recipe]:
        REGISTRY[build.__name__] = Technique(build.__name__, build, symmetric, pair, random, weighted)
        return build

    return enter


def within(name: str, value: Number, low: Number, high: Number) -> Number:
    """`value`, if low ≤ value ≤ high; else a BadInput that names the option."""
    if not low <= value <= high:
        raise BadInput(f"{name}: expected a number between {low:g} and {high:g}, found {value:g}")
    return value


def among(name: str, value: str, choices: Sequence[str]) -> str:
    """`value`, if it is one of `choices`; else a BadInput that names the option."""
    if value not in choices:
        raise BadInput(f"{name}: expected one of {', '.join(choices)}, found {value!r}")
    return value


def group(name: str, per: str) -> str:
    """The flat vector a tensor belongs to: the whole model, its tower (open_clip's `visual.` or text), or itself."""
    tower = "visual" if name.startswith("visual.") else "text"
    return {"model": "", "tower": tower, "tensor": name}[per]
