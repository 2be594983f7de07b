"""Small models for the tests of the merge room: several tensors, awkward sizes, an integer buffer."""

import torch
from hypothesis import settings
from hypothesis import strategies as st

SHAPES = {"visual.a": (3, 7), "visual.b": (1,), "c": (17,), "d": (2, 2, 3)}


def model(seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A random state dict with an integer buffer that is the same in all of them."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: (scale * torch.randn(shape, generator=generator)).to(dtype) for name, shape in SHAPES.items()}
    return state | {"positions": torch.arange(5)}


def deltas(seed: int, count: int, shared: float = 0.0) -> list[dict[str, torch.Tensor]]:
    """Random deltas, without the buffer, with a common part of weight `shared` and task-dependent scales."""
    common = model(10_000 + seed)
    own = [model(100 * seed + k) for k in range(count)]
    return [{n: (0.5 + k) * (d[n] + shared * common[n]) for n in SHAPES} for k, d in enumerate(own)]


few = settings(max_examples=8, deadline=None)
seeds = st.integers(0, 50)
counts = st.integers(2, 5)


def same(left: dict, right: dict) -> bool:
    """Equal keys, dtypes and bits."""
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype and torch.equal(left[n], right[n]) for n in left
    )
