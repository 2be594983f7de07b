"""Experts as cached steps: the base fine-tuned on one task, alone or on top of what came before.

step = experts.step(profile, "digits", seed=0)
delta = experts.delta(store.get(step))
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from clipmerge import files
from clipmerge.clip import datasets, finetune, manifests, models
from clipmerge.merge import deltas
from clipmerge.study import profiles
from clipmerge.study.profiles import Profile
from clipmerge.study.steps import Step, accelerator

DELTA, LOG = "delta.safetensors", "log.json"


def task_config(profile: Profile, task: str) -> dict:
    """What the images of a task depend on: its name, the profile's limits and the digest in its manifest."""
    limits = profiles.subset(profile, "data.per_class_train", "data.per_class_test")
    return {"task": task, "digest": manifests.load(task).digest, **limits}


def dataset(config: Mapping) -> datasets.Dataset:
    """The dataset that a `task_config` describes."""
    limits = config["data.per_class_train"], config["data.per_class_test"]
    return datasets.limit(datasets.load(config["task"]), *limits)


def base_inputs(model: str) -> dict[str, Path]:
    """The weights file a step on `model` depends on; weights that open_clip fetches are named by the tag instead."""
    return {"base": models.weights(model)} if model.partition("/")[0] in models.NANO else {}


def step(profile: Profile, task: str, seed: int, model: str = "", held_out: int | None = None) -> Step:
    """The expert of `task`: the base (of `profile.model` or another) fine-tuned on it; gives its delta.

    `held_out` seeds a validation split that is not trained on (`sweep` chooses hyper-parameters there).
    """
    model = model or profile.model
    return Step(
        tune, f"expert/{label(model)}/{task}", _config(profile, task, model, held_out), base_inputs(model), seed
    )


def continual(profile: Profile, order: Sequence[str], seed: int, model: str = "") -> list[Step]:
    """Continual fine-tuning as a chain of steps: each starts from the weights the one before has left.

    The first link starts from the base: it is that task's expert.
    """
    model = model or profile.model
    chain = [step(profile, order[0], seed, model)]
    for task in order[1:]:
        inputs = base_inputs(model) | {"start": chain[-1]}
        chain.append(Step(tune, f"continual/{label(model)}/{task}", _config(profile, task, model), inputs, seed))
    return chain


def label(model: str) -> str:
    """A model's name as a part of a path."""
    return model.replace("/", "+")


def _config(profile: Profile, task: str, model: str, held_out: int | None = None) -> dict:
    recipe = profiles.plain_recipe(profile, task)
    return {"model": model, "recipe": recipe, "held_out": held_out, **task_config(profile, task)}


def tune(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: fine-tune, then write the delta from the base and the loss curve."""
    (model, base), data = learner(config, inputs), dataset(config)
    recipe, index = finetune.Recipe(**config["recipe"]), usable(config, data)
    log = finetune.tune(model, config["model"], data, recipe, seed, index=index)
    leave(out, model.cpu().state_dict(), base, log)


def learner(config: Mapping, inputs: Mapping[str, Path]) -> tuple[nn.Module, dict[str, Tensor]]:
    """What every step that tunes begins with: the model, from the base or from where ``start`` ended, and the base."""
    model = models.create(config["model"])
    base = models.state(model)
    if "start" in inputs:
        model.load_state_dict(deltas.apply_delta(base, delta(inputs["start"])))
    return model.to(accelerator()), base


def usable(config: Mapping, data: datasets.Dataset) -> Int64[Tensor, " m"]:
    """Indices of the training images a step may learn from: all, or what the split seeded by ``held_out`` leaves."""
    if config.get("held_out") is None:
        return torch.arange(len(data.train_labels))
    return datasets.validation_split(data, seed=config["held_out"])[0]


def leave(out: Path, tuned: Mapping[str, Tensor], base: Mapping[str, Tensor], log: Sequence[Mapping]) -> None:
    """What every step that tunes ends with: write how far the weights have moved from `base`, and the loss curve."""
    files.save_tensors(out / DELTA, deltas.delta(tuned, base))
    files.write_json(out / LOG, log)


def delta(folder: Path) -> dict[str, Tensor]:
    """The delta that an expert's (or a chain's) step has left in its folder."""
    return files.load_tensors(folder / DELTA)
