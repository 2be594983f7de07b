"""TIME's pipeline as cached steps: train, merge, grade (paper §3: init, train, store, deploy, evaluate).

A model is a `Step` that leaves a delta, or None for the base; a `Blend` of them is merged when it is needed and not
kept. Keys hold only what a step depends on: one expert serves every strategy that starts it alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from clipmerge import files
from clipmerge.clip import manifests, pool, replay
from clipmerge.errors import BadInput
from clipmerge.merge import techniques
from clipmerge.merge.registry import Number
from clipmerge.study import experts
from clipmerge.study.cache.step import Step
from clipmerge.study.profiles import Profile
from clipmerge.study.time import steps, streams
from clipmerge.study.time.streams import Stream


@dataclass(frozen=True)
class Setting:
    """What one run holds fixed, whatever its strategy.

    `model` and `mixture` (shares of pretraining, update, buffer) are the profile's, the first of its mixtures, unless
    given; `compute` is a factor on all steps.
    """

    profile: Profile
    stream: Stream
    seed: int = 0
    model: str = ""
    mixture: Sequence[Number] = ()
    compute: Number = 1.0

    def __post_init__(self) -> None:
        if not self.compute > 0:
            raise BadInput(f"compute: expected a factor above 0, found {self.compute}")
        object.__setattr__(self, "model", self.model or self.profile.model)
        object.__setattr__(self, "mixture", self.mixture or next(iter(self.profile.temporal.mixtures.values())))
        replay.shares(self.mixture, has_past=True)  # refuses what is no mixture

    @property
    def steps(self) -> int:
        """Optimiser steps of one task: the budget is split evenly over the tasks, at least one each."""
        return max(1, round(self.profile.temporal.budget * self.compute / len(self.stream.chunks)))

    @property
    def label(self) -> str:
        """Where its steps are: model and stream."""
        return f"time/{experts.label(self.model)}/{self.stream.name}-{len(self.stream.chunks)}"

    @property
    def columns(self) -> dict[str, object]:
        """How it is described in rows."""
        return {
            "seed": self.seed,
            "model": self.model,
            "order": self.stream.name,
            "tasks": len(self.stream.chunks),
            "compute": self.compute,
            "mixture": self.profile.temporal.named(self.mixture),
        }


@dataclass(frozen=True)
class Blend:
    """A merge of models (oldest first) that is not kept; `weights` are relative, one a model."""

    models: tuple[Step | None, ...]
    technique: str = "average"
    weights: Sequence[Number] | None = None
    options: Mapping[str, object] = field(default_factory=dict)


def train(setting: Setting, task: int, start: Step | None) -> Step:
    """The expert of task number `task` (from 0): trained from `start`, or from the base, on its chunk and replay."""
    chunks = setting.stream.chunks
    update = streams.by_dataset(chunks[task])
    past = [pair for chunk in chunks[:task] for pair in chunk]
    time = setting.profile.temporal
    sizes = replay.counts(time.recipe.batch, setting.mixture, has_past=bool(past))
    buffer = streams.by_dataset(past) if sizes[2] else {}
    config = {
        "model": setting.model,
        "compute": setting.profile.compute.numerics,
        "number": task,
        "recipe": replace(time.recipe, steps=setting.steps),
        "scale_min": time.scale_min,
        "sizes": sizes,
        "pool": files.digest(pool.recipe()) if sizes[0] else None,
        "update": update,
        "buffer": buffer,
        "data": [experts.task_config(setting.profile, name) for name in sorted({*update, *buffer})],
    }
    inputs = experts.base_inputs(setting.model, start)
    return Step(steps.train, f"{setting.label}/train/{task + 1:03d}", config, inputs, setting.seed)


def merge(setting: Setting, blend: Blend) -> Step | None:
    """A blend merged and kept, to be trained on or folded further; of one model alone, that model."""
    return blend.models[0] if len(blend.models) == 1 else _step(steps.merge, setting, blend, "merge", {})


def grade(setting: Setting, model: Step | Blend | None, images: str = "subset") -> Step:
    """Accuracy of a model on all adaptation and held-out sets: on a "subset" of their test images, or on the "full"."""
    blend = model if isinstance(model, Blend) else Blend((model,))
    if len(blend.models) == 1:
        blend = Blend(blend.models)  # nothing is merged: the technique is no part of the key
    config = {"sets": sets(setting, images), "compute": setting.profile.compute.numerics}
    return _step(steps.grade, setting, blend, images, config)


def sets(setting: Setting, images: str) -> list[dict]:
    """What is graded, set by set. A validation run leaves out what has test images only."""
    time, data = setting.profile.temporal, setting.profile.data
    limits = dict.fromkeys(time.adaptation, time.subset_adaptation) | dict.fromkeys(time.heldout, time.subset_heldout)
    return [
        {"data": experts.task_config(setting.profile, name), "images": None if images == "full" else limit}
        for name, limit in limits.items()
        if data.validation is None or manifests.load(name).counts["train"]
    ]


def _step(fn: Callable, setting: Setting, blend: Blend, name: str, config: Mapping) -> Step:
    """A step that begins with merging. Only random techniques need the seed; other steps are shared between seeds."""
    how = {"technique": blend.technique, "weights": blend.weights, "options": blend.options}
    inputs = {f"model.{i:03d}": model for i, model in enumerate(blend.models) if model}
    config = {"model": setting.model, "blend": how | {"count": len(blend.models)}, **config}
    seed = setting.seed if techniques.find(blend.technique).random else 0
    return Step(fn, f"{setting.label}/{name}", config, experts.base_inputs(setting.model) | inputs, seed)
