"""Experts as cached steps: the base fine-tuned on one task, alone or on top of what came before.

step = experts.step(profile, "digits", seed=0)
delta = experts.delta(store.get(step))
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from clipmerge import files
from clipmerge.clip import datasets, finetune, manifests, models
from clipmerge.merge import deltas
from clipmerge.study import profiles
from clipmerge.study.profiles import Profile
from clipmerge.study.steps import Step

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
    return {"base": models.weights(model)} if model in models.NANO else {}


def step(profile: Profile, task: str, seed: int, model: str = "", index_seed: int | None = None) -> Step:
    """The expert of `task`: the base (of `profile.model` or another) fine-tuned on it; gives its delta.

    With `index_seed` a fifth of the training images is held out, as `sweep` does to choose hyper-parameters.
    """
    model = model or profile.model
    recipe = asdict(profiles.recipe(profile, task))
    config = {"model": model, "recipe": recipe, "index_seed": index_seed, **task_config(profile, task)}
    return Step(tune, f"expert/{model.replace('/', '+')}/{task}", config, base_inputs(model), seed)


def continual(profile: Profile, order: tuple[str, ...], seed: int) -> list[Step]:
    """Continual fine-tuning as a chain of steps: each starts from the weights the one before has left."""
    chain: list[Step] = []
    for task in order:
        recipe = asdict(profiles.recipe(profile, task))
        config = {"model": profile.model, "recipe": recipe, "index_seed": None, **task_config(profile, task)}
        inputs = base_inputs(profile.model) | ({"start": chain[-1]} if chain else {})
        chain.append(Step(tune, f"continual/{profile.model.replace('/', '+')}/{task}", config, inputs, seed))
    return chain


def tune(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: fine-tune, then write the delta from the base and the loss curve."""
    model, data = models.create(config["model"]), dataset(config)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if "start" in inputs:
        model.load_state_dict(deltas.apply_delta(base, delta(inputs["start"])))
    recipe = finetune.Recipe(**{k: v for k, v in config["recipe"].items() if k != "lr_by_task"})
    index = None
    if config["index_seed"] is not None:
        index, _ = datasets.validation_split(data, seed=config["index_seed"])
    model = model.to(accelerator())
    log = finetune.tune(model, config["model"], data, recipe, seed, index=index)
    files.save_tensors(out / DELTA, deltas.delta(model.cpu().state_dict(), base))
    files.write_json(out / LOG, log)


def accelerator() -> str:
    """Where tensors are computed: CUDA if there is one, else MPS, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def delta(folder: Path) -> dict[str, Tensor]:
    """The delta that an expert's (or a chain's) step has left in its folder."""
    return files.load_tensors(folder / DELTA)
