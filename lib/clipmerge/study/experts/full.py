"""Experts as cached steps: the base fine-tuned on one task, alone or on top of what came before.

step = experts.step(profile, "digits", seed=0)
delta = experts.delta(store.get(step))
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from clipmerge import files
from clipmerge.clip import datasets, device, finetune, manifests, models, published
from clipmerge.errors import BadInput
from clipmerge.merge import deltas
from clipmerge.study import profiles
from clipmerge.study.cache import isolation
from clipmerge.study.cache.step import Step
from clipmerge.study.profiles import Profile

DELTA, LOG = "delta.safetensors", "log.json"


def task_config(profile: Profile, task: str) -> dict:
    """What the images of a task depend on: its name, the profile's limits and split, the digest in its manifest."""
    images = asdict(profile.data)
    del images["tasks"]
    return {"task": task, "digest": manifests.load(task).digest, **images}


def config(profile: Profile, tasks: Sequence[str], model: str = "") -> dict:
    """What a step depends on that shows images of some tasks to a model (of `profile.model` or another)."""
    numerics = profile.compute.numerics
    return {"model": model or profile.model, "compute": numerics, "tasks": [task_config(profile, t) for t in tasks]}


def dataset(config: Mapping) -> datasets.Dataset:
    """The dataset that a `task_config` describes: whoever asks for ``validation`` images gets no test images."""
    data = datasets.limit(datasets.load(config["task"]), config["per_class_train"], config["per_class_test"])
    if config["validation"] is None:
        return data
    fit, held = datasets.validation_split(data, seed=config["validation"])
    images, labels = data.train_images, data.train_labels
    return replace(
        data, train_images=images[fit], train_labels=labels[fit], test_images=images[held], test_labels=labels[held]
    )


def base_inputs(model: str, start: Step | None = None) -> dict[str, Path | Step]:
    """The weights a step on `model` depends on, and the step from whose weights it goes on, if it does.

    Weights that open_clip fetches stand there by their lock. A plan fetches none, and goes without.
    """
    if model.partition("/")[0] in models.NANO:
        base = models.weights(model)
    else:
        base = published.fetch(model) if device.somewhere() else published.lock(model)
    return ({"base": base} if base else {}) | ({"start": start} if start else {})


def step(
    profile: Profile,
    task: str,
    seed: int,
    model: str = "",
    start: Step | None = None,
) -> Step:
    """The expert of `task`: the base (of `profile.model` or another) fine-tuned on it; gives its delta.

    With `start`, a link of a chain: tuning goes on from the weights that step has left, by the chain's recipe.
    """
    model = model or profile.model
    name = f"{'continual' if start else 'expert'}/{label(model)}/{task}"
    inputs = base_inputs(model, start)
    return Step(tune, name, _config(profile, task, model, "chain" if start else "finetune"), inputs, seed)


def label(model: str) -> str:
    """A model's name as a part of a path."""
    return model.replace("/", "+")


def _config(profile: Profile, task: str, model: str, way: str) -> dict:
    recipe = profiles.recipe(profile, task, way)
    numerics = profile.compute.numerics
    return {"model": model, "compute": numerics, "recipe": recipe, **task_config(profile, task)}


def tune(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: fine-tune, then write the delta from the base and the loss curve."""
    (model, base), data = learner(config, inputs), dataset(config)
    recipe, index = finetune.Recipe(**config["recipe"]), usable(config, data, seed)
    log = finetune.tune(model, config["model"], data, recipe, seed, checkpoint=isolation.checkpoint(), index=index)
    leave(out, models.state(model), base, log)


def learner(config: Mapping, inputs: Mapping[str, Path]) -> tuple[nn.Module, dict[str, Tensor]]:
    """What every step that tunes begins with: the model, from the base or from where ``start`` ended, and the base."""
    model = models.create(config["model"])
    base = models.state(model)
    if "start" in inputs:
        model.load_state_dict(deltas.apply_delta(base, delta(inputs["start"])))
    return model, base


def usable(config: Mapping, data: datasets.Dataset, seed: int) -> Int64[Tensor, " m"]:
    """Indices of the training images a step may learn from: all, or ``shots`` of each class, which `seed` draws."""
    if config.get("shots") is None:
        return torch.arange(len(data.train_labels))
    return draw(data.train_labels, config["shots"], seed)


def draw(labels: Int64[Tensor, " n"], shots: int, seed: int) -> Int64[Tensor, " m"]:
    """Indices of `shots` images of every class (all of a class that has fewer), sorted; another seed, another draw."""
    if shots < 1:
        raise BadInput(f"shots: expected at least 1 image of each class, found {shots}")
    generator, chosen = torch.Generator().manual_seed(seed), []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().squeeze(1)
        chosen.append(members[torch.randperm(len(members), generator=generator)[:shots]])
    return torch.cat(chosen).sort().values


def leave(out: Path, tuned: Mapping[str, Tensor], base: Mapping[str, Tensor], log: Sequence[Mapping]) -> None:
    """What every step that tunes ends with: write how far the weights have moved from `base`, and the loss curve."""
    files.save_tensors(out / DELTA, deltas.delta(tuned, base))
    files.write_json(out / LOG, log)


def delta(folder: Path) -> dict[str, Tensor]:
    """The delta that an expert's (or a chain's) step has left in its folder."""
    return files.load_tensors(folder / DELTA)
