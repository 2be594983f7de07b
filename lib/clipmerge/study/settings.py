"""What a profile holds: one frozen dataclass for each section of its YAML file (`profiles` reads them).

Every field is required and every number of an experiment is here, so the YAML files are the whole list of settings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Data:
    """Which tasks, and how many images a class of each (None: all)."""

    per_class_train: int | None
    per_class_test: int | None
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Finetune:
    """The recipe of one expert: AdamW, linear warm-up, cosine to zero, label smoothing, random resized crops."""

    steps: int
    batch: int
    lr: float
    lr_by_task: Mapping[str, float] = field(hash=False)
    warmup: int
    label_smoothing: float
    weight_decay: float
    beta1: float
    beta2: float
    scale_min: float  # smallest area of a random crop, as a fraction of the image


@dataclass(frozen=True)
class Mtil:
    """ConDU's protocol: order of tasks (empty: as `Data.tasks` lists them), experts per vote, kind of rescaler."""

    order: tuple[str, ...]
    k: int
    rescaler: Literal["tensor_mean", "global_l1"]


@dataclass(frozen=True)
class Pretrain:
    """The contrastive pretraining that notebook 02 runs."""

    steps: int
    batch: int
    lr: float
    warmup: int
    weight_decay: float
    seed: int


@dataclass(frozen=True)
class Profile:
    """Everything an experiment depends on, except its seed."""

    name: str
    model: str
    width_models: tuple[str, ...]
    seeds: tuple[int, ...]
    width_seeds: tuple[int, ...]
    workers: int
    device: Literal["auto", "cpu", "cuda", "mps"]
    autocast: Literal["none", "bf16"]
    data: Data
    finetune: Finetune
    mtil: Mtil
    pretrain: Pretrain | None
