"""Merging techniques by name: `merge("ties", experts, base, keep=0.2)`. What each one does: `describe("ties")`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clipmerge.errors import BadInput
from clipmerge.merge import elections, linear, sparse  # noqa: F401  (importing enters them into the registry)
from clipmerge.merge.layout import Layout, mergeable
from clipmerge.merge.lines import Lines
from clipmerge.merge.passes import Models, Reader, run
from clipmerge.merge.registry import REGISTRY, Number, Recipe, Technique

if TYPE_CHECKING:
    import torch

State = Mapping[str, "torch.Tensor"]


def names() -> tuple[str, ...]:
    """All techniques, in alphabetical order."""
    return tuple(sorted(REGISTRY))


def find(name: str) -> Technique:
    """The registry's entry: formula, options, and whether symmetric, random, weighted or for pairs only."""
    if name not in REGISTRY:
        raise BadInput(f"technique: expected one of {', '.join(names())}, found {name!r}")
    return REGISTRY[name]


def describe(name: str) -> str:
    """Formula, source and defaults of a technique."""
    return find(name).formula


def merge(
    name: str,
    experts: Sequence[State],
    base: State,
    weights: Sequence[Number] | None = None,
    seed: int = 0,
    fishers: Sequence[State] | None = None,
    lines: Lines | None = None,
    **options: object,
) -> dict[str, "torch.Tensor"]:
    """Merge experts that were tuned from `base`; returns a state dict with the base's keys, dtypes and tied tensors.

    `weights` (for average, slerp, fisher) are relative; `seed` drives dare_ties and random; `fishers` is for fisher;
    `lines` modifies any technique; `options` are the technique's own. Integer buffers must be equal in all models and
    are kept. Arithmetic is fp64, rounded once. Raises BadInput on incompatible models, NaN or Inf, unknown options.
    """
    import torch  # here, because file to file nothing needs it

    from clipmerge.merge.deltas import check_compatible, layout

    labels = [f"expert {position}" for position in range(len(experts))]
    recipe = plan(name, len(experts), weights, fishers, lines, options)
    check_compatible(base, experts, labels)
    aliases = tied(base, experts)
    merged = {n: entry for n, entry in mergeable(layout(base)).items() if n not in aliases}
    check_fishers(merged, [layout(f) for f in fishers or ()])
    models = Models(merged, reader(base), [reader(e) for e in experts], labels, [reader(f) for f in fishers or ()])
    out = {n: torch.empty(base[n].shape, dtype=base[n].dtype) for n in merged}

    def keep(tensor: str, start: int, values: np.ndarray) -> None:
        out[tensor].view(-1)[start : start + len(values)] = torch.from_numpy(values)

    run(recipe, models, keep, shares(weights, len(experts)), seed, lines)
    return {n: out[aliases.get(n, n)] if base[n].is_floating_point() else base[n] for n in base}


def plan(
    name: str,
    count: int,
    weights: Sequence[Number] | None,
    fishers: Sequence | None,
    lines: Lines | None,
    options: Mapping,
) -> Recipe:
    """The recipe for `count` experts, with every argument that the technique cannot use refused by name."""
    technique = find(name)
    if count < 1 or (technique.pair and count != 2):
        raise BadInput(
            f"{name}: expected {'exactly two experts' if technique.pair else 'at least one expert'}, found {count}"
        )
    if weights is not None and not technique.weighted:
        raise BadInput(f"weights: {name} takes none, found {list(weights)}")
    if lines and "scale" in options:
        raise BadInput("scale: LiNeS takes its place, give one or the other")
    recipe = technique.recipe(options)
    expected = count if recipe.fishers else 0
    if len(fishers or ()) != expected:
        raise BadInput(f"fishers: {name} of {count} experts takes {expected}, found {len(fishers or ())}")
    shares(weights, count)
    return recipe


def shares(weights: Sequence[Number] | None, count: int) -> list[float]:
    """Weights divided by their sum; 1 / n each if none are given."""
    if weights is None:
        return [1 / count] * count
    if len(weights) != count or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise BadInput(f"weights: expected {count} numbers ≥ 0 with a positive sum, found {list(weights)}")
    return [weight / sum(weights) for weight in weights]


def reader(state: State) -> Reader:
    """Read parts of the flattened tensors of a state dict, as a file's reader does."""
    import torch

    def read(name: str, start: int, stop: int, out: np.ndarray) -> None:
        torch.from_numpy(out).copy_(state[name].detach().reshape(-1)[start:stop])  # from any device and format

    return read


def tied(base: State, experts: Sequence[State]) -> dict[str, str]:
    """Names that share another name's storage in the base, and that name: such a pair is merged once and stays tied."""
    import torch

    from clipmerge.merge.deltas import floats

    seen: dict[tuple, str] = {}
    aliases = {}
    for name in floats(base):
        x = base[name]
        first = seen.setdefault((x.untyped_storage().data_ptr(), x.storage_offset(), x.shape, x.stride()), name)
        if first != name and x.numel():
            aliases[name] = first
            for position, expert in enumerate(experts):
                if not torch.equal(expert[name], expert[first]):
                    raise BadInput(
                        f"expert {position}: {name} and {first} are one tensor in the base, found two different ones"
                    )
    return aliases


def check_fishers(merged: Layout, fishers: Sequence[Layout]) -> None:
    """Every Fisher diagonal (layouts, as in `deltas`) must have a tensor of the same shape for all that is merged."""
    for position, fisher in enumerate(fishers):
        for name, (shape, _) in merged.items():
            found = fisher[name][0] if name in fisher else "no such tensor"
            if found != shape:
                raise BadInput(f"fishers {position}: {name} should have shape {shape}, found {found}")
