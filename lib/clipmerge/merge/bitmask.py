"""Packed masks: one bit per parameter instead of the byte a boolean tensor takes."""

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from clipmerge.errors import BadInput
from clipmerge.merge.kernels import packed_size, unpack_bits


@dataclass(frozen=True, eq=False)
class PackedMask:
    """A boolean tensor in one bit per element: `bits` is uint8[ceil(n / 8)], first element in the highest bit."""

    bits: Tensor
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.bits.dtype != torch.uint8 or self.bits.shape != (packed_size(self.count),):
            found = f"{list(self.bits.shape)} {self.bits.dtype}"
            raise BadInput(f"mask of shape {self.shape}: expected uint8[{packed_size(self.count)}], found {found}")

    @property
    def count(self) -> int:
        """Number of elements n; the up to 7 bits after the n-th are zero."""
        return prod(self.shape)

    def unpack(self) -> Tensor:
        """The mask as a boolean tensor of its shape."""
        return torch.from_numpy(unpack_bits(self.bits.numpy(), self.count)).reshape(self.shape)

    def density(self) -> float:
        """Share of ones, between 0 and 1 (0 for an empty mask)."""
        return int(np.bitwise_count(self.bits.numpy()).sum()) / max(self.count, 1)


def pack(mask: Tensor) -> PackedMask:
    """Pack a boolean tensor of any shape; `pack(mask).unpack()` gives it back."""
    if mask.dtype != torch.bool:
        raise BadInput(f"pack: expected a boolean tensor, found {mask.dtype}")
    return PackedMask(torch.from_numpy(np.packbits(mask.reshape(-1).cpu().numpy())), tuple(mask.shape))
