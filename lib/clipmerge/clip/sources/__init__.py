"""Decoders: one module per kind of source, each turning members of verified wheels into labelled 32×32 images.

A decoder is a function of a `Manifest` alone, so it is deterministic: whatever is random in it is drawn from a
generator with a fixed seed, and nothing depends on the order of a folder or on Python's salted `hash`.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

Sample = tuple[UInt8[np.ndarray, "32 32 3"], int]


@dataclass(frozen=True)
class Decoded:
    """What a decoder returns: class names and the labelled images of both sides of the split."""

    classes: tuple[str, ...]
    train: list[Sample] = field(default_factory=list)
    test: list[Sample] = field(default_factory=list)

    def side(self, is_test: bool) -> list[Sample]:
        """The list a sample belongs to."""
        return self.test if is_test else self.train
