"""Where and how everything is computed: one record, `Compute`, that a profile holds and everything obeys (`device`).

What a result may depend on (kind of device, autocast) is part of the keys of steps that show something to a model. It
is taken from the profile, not from the machine that plans: a head node without a GPU and its workers agree.
"""

from dataclasses import dataclass
from typing import Literal

from clipmerge.errors import expect


@dataclass(frozen=True)
class Compute:
    """How a profile's experiments are computed.

    device: ``auto`` is CUDA if there is one, else MPS, else the CPU of whoever runs the step; autocast: precision of
    forward passes; engine: what runs steps side by side; workers: how many at once; threads: of each of them.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "cpu"
    autocast: Literal["none", "bf16"] = "none"
    engine: Literal["auto", "serial", "processes", "ray"] = "auto"
    workers: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        expect(self, {name: (getattr(self, name) > 0, "at least 1") for name in ("workers", "threads")})

    @property
    def numerics(self) -> dict[str, str]:
        """The part that numbers depend on: what a step's config holds under ``compute``."""
        return {"device": self.device, "autocast": self.autocast}
