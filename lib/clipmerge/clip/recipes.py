"""How models are trained: the numbers alone, so that reading a profile needs no torch.

They are known as ``finetune.Recipe`` and ``adapt.Recipe``.
"""

from dataclasses import dataclass

from clipmerge.errors import expect


@dataclass(frozen=True)
class Finetune:
    """One expert's hyper-parameters: AdamW, linear warm-up, cosine to zero, label smoothing, random resized crops.

    The defaults are the paper's, profiles scale them down.
    """

    steps: int = 1000
    batch: int = 64
    lr: float = 1e-5
    warmup: int = 100
    label_smoothing: float = 0.2
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    scale_min: float = 0.9  # smallest area of a random crop, as a fraction of the image
    classes: int | None = None  # that one step tells apart, at most (None: all)
    templates: str = "first"  # of the task that a step may ask in: its "first", or one of "all" drawn at random

    def __post_init__(self) -> None:
        rules = {name: (getattr(self, name) > 0, "above 0") for name in ("steps", "batch", "lr")}
        rules["warmup"] = (0 <= self.warmup <= self.steps, f"between 0 and {self.steps}, the number of steps")
        rules["scale_min"] = (0 < self.scale_min <= 1, "above 0 and at most 1")
        rules["templates"] = (self.templates in ("first", "all"), "'first' or 'all'")
        rules["classes"] = (self.classes is None or self.classes > 1, "null or at least 2")
        expect(self, rules)


@dataclass(frozen=True)
class Adapt:
    """Hyper-parameters of one task; the defaults are TIME's, profiles scale them down."""

    steps: int = 1420
    batch: int = 512
    lr: float = 1e-5
    warmup: float = 0.1  # share of the steps
    floor: float = 0.001  # of the learning rate, where the cosine ends
    weight_decay: float = 0.2
    clip_norm: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    positives: str = "diagonal"  # texts that are right for an image: its own alone (TIME's code), or all of its "name"
    decay: str = "all"  # what weight decay acts on: all that trains (TIME's code), or "matrices", no gain and no bias

    def __post_init__(self) -> None:
        rules = {name: (getattr(self, name) > 0, "above 0") for name in ("steps", "batch", "lr", "clip_norm")}
        rules["positives"] = (self.positives in ("diagonal", "name"), "diagonal or name")
        rules["decay"] = (self.decay in ("all", "matrices"), "all or matrices")
        expect(self, rules)
