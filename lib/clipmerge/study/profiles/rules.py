"""Settings of inference: which rules answer an image of an unknown task, and which of them are compared."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rule:
    """One rule of inference (`condu.voting`): what prototypes are made of, who votes and with what weight."""

    prototypes: Literal["both", "image", "text"]
    k: int
    base: bool
    weighting: Literal["mean", "similarity", "softmax"]
    tau: float | None  # of ``softmax``


@dataclass(frozen=True)
class Radius:
    """The rule with a radius (`routing.radius`): prototypes, the quantile of training images, temperature."""

    prototypes: Literal["both", "image", "text"]
    quantile: float
    tau: float


@dataclass(frozen=True)
class Inference:
    """Rules of inference that are compared: seeds for which every session is answered, temperatures of soft weights."""

    baselines: tuple[str, ...]  # that answer without being told the task (Table 2); their seeds as in `Baselines`
    average_seeds: tuple[int, ...]  # Average needs every session; other seeds have the last one only
    taus: tuple[float, ...]
    chosen: Rule  # on validation images; it stands beside the authors' rule
    radius: Radius  # likewise
