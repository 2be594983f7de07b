"""The stages of TIME as cached steps: train, fold, merge, grade (paper §3: init, train, store, deploy, evaluate).

A model is a `Step` that leaves a delta, or a `Blend` of such steps that is merged when it is needed and not kept, or
None for the base. Keys hold only what a stage depends on: one expert serves every strategy that starts it alike.
"""

from collections.abc import Mapping, Sequence
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

    `model`, `mixture` (pretraining, update, buffer) and `compute` (a factor on all steps) are the profile's unless
    given; `held_out` seeds a validation split that is not trained on but graded instead of the test part.
    """

    profile: Profile
    stream: Stream
    seed: int = 0
    model: str = ""
    mixture: Sequence[Number] = ()
    compute: Number = 1.0
    held_out: int | None = None

    def __post_init__(self) -> None:
        if not self.compute > 0:
            raise BadInput(f"compute: expected a factor above 0, found {self.compute}")
        for name, value in (("model", self.profile.model), ("mixture", self.profile.temporal.mixture)):
            object.__setattr__(self, name, getattr(self, name) or value)
        replay.shares(self.mixture, has_past=True)  # refuses what is no mixture

    @property
    def steps(self) -> int:
        """Optimiser steps of one task: the budget is split evenly over the tasks, at least one each."""
        return max(1, round(self.profile.temporal.budget * self.compute / len(self.stream.chunks)))

    @property
    def label(self) -> str:
        """Where its steps are: model and stream."""
        return f"time/{experts.label(self.model)}/{self.stream.name}-{len(self.stream.chunks)}"


@dataclass(frozen=True)
class Blend:
    """A merge of experts (oldest first) that is not kept; `weights` are relative, the base's first if it takes part."""

    experts: tuple[Step, ...]
    technique: str = "average"
    weights: tuple[Number, ...] | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    with_base: bool = False


Model = Step | Blend | None


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
        "number": task,
        "recipe": replace(time.recipe, steps=setting.steps),
        "scale_min": time.scale_min,
        "sizes": sizes,
        "pool": files.digest(pool.recipe()) if sizes[0] else None,
        "update": update,
        "buffer": buffer,
        "data": [experts.task_config(setting.profile, name) for name in sorted({*update, *buffer})],
        "held_out": setting.held_out,
    }
    inputs = experts.base_inputs(setting.model) | ({"start": start} if start else {})
    return Step(steps.train, f"{setting.label}/train/{task + 1:03d}", config, inputs, setting.seed)


def fold(
    setting: Setting, expert: Step, running: Step | None, technique: str, weight: Number | None, options: Mapping
) -> Step:
    """The moving average after one more expert; `running` None is the base."""
    config = {"model": setting.model, "technique": technique, "weight": weight, "options": dict(options)}
    inputs = experts.base_inputs(setting.model) | {"expert": expert} | ({"running": running} if running else {})
    return Step(steps.fold, f"{setting.label}/fold", config, inputs, _seed(setting, technique))


def keep(setting: Setting, blend: Blend) -> Step:
    """A blend merged and kept, to be trained on; of one expert alone, that expert."""
    if len(blend.experts) == 1 and not blend.with_base:
        return blend.experts[0]
    config, inputs = _blend(setting, blend)
    return Step(steps.merge, f"{setting.label}/merge", config, inputs, _seed(setting, blend.technique))


def grade(setting: Setting, model: Model, full: bool = False) -> Step:
    """Accuracy of a model on all adaptation and held-out sets: a subset of their test images, or all of them."""
    blend = Blend(()) if model is None else Blend((model,)) if isinstance(model, Step) else model
    if len(blend.experts) < 2 and not blend.with_base:
        blend = Blend(blend.experts)  # nothing is merged: the technique is no part of the key
    config, inputs = _blend(setting, blend)
    config |= {"sets": _sets(setting, full), "held_out": setting.held_out}
    name = f"{setting.label}/{'full' if full else 'subset'}"
    return Step(steps.grade, name, config, inputs, _seed(setting, blend.technique))


def _sets(setting: Setting, full: bool) -> list[dict]:
    """What is graded, set by set. A validation run leaves out what has test images only."""
    profile, time = setting.profile, setting.profile.temporal
    limits = {name: time.subset_adaptation for name in time.adaptation}
    limits |= {name: time.subset_heldout for name in time.heldout}
    if setting.held_out is not None:
        limits = {name: most for name, most in limits.items() if manifests.load(name).counts["train"]}
    return [
        {"data": experts.task_config(profile, name), "images": None if full else most} for name, most in limits.items()
    ]


def _blend(setting: Setting, blend: Blend) -> tuple[dict, dict]:
    how = {"technique": blend.technique, "weights": blend.weights, "options": dict(blend.options)}
    config = {"model": setting.model, "blend": how | {"with_base": blend.with_base}}
    named = {f"expert.{i:03d}": step for i, step in enumerate(blend.experts)}
    return config, experts.base_inputs(setting.model) | named


def _seed(setting: Setting, technique: str) -> int:
    """Only random techniques depend on the seed; the others' steps are shared between seeds that agree."""
    return setting.seed if techniques.find(technique).random else 0
