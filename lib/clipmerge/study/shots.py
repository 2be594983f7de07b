"""Few-shot learning: which images a learner owns that is given a handful of each class, and tuning on them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from clipmerge import files
from clipmerge.clip import datasets, finetune, models
from clipmerge.errors import BadInput
from clipmerge.merge import deltas
from clipmerge.study import experts
from clipmerge.study.steps import accelerator


def draw(labels: Int64[Tensor, " n"], shots: int, seed: int) -> Int64[Tensor, " m"]:
    """Indices of `shots` images of every class (all of a class that has fewer), sorted; another seed, another draw."""
    if shots < 1:
        raise BadInput(f"shots: expected at least 1 image of each class, found {shots}")
    generator, chosen = torch.Generator().manual_seed(seed), []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().squeeze(1)
        chosen.append(members[torch.randperm(len(members), generator=generator)[:shots]])
    return torch.cat(chosen).sort().values


def owned(config: Mapping, data: datasets.Dataset, seed: int) -> Tensor:
    """Indices of the training images a learner may use: without a held-out part, and only some shots if so asked."""
    index = torch.arange(len(data.train_labels))
    if config.get("held_out") is not None:
        index = datasets.validation_split(data, seed=config["held_out"])[0]
    if config.get("shots") is not None:
        index = index[draw(data.train_labels[index], config["shots"], seed)]
    return index


def tune(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: as `experts.tune`, on a few images of each class."""
    model, data = models.create(config["model"]), experts.dataset(config)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if "start" in inputs:
        model.load_state_dict(deltas.apply_delta(base, experts.delta(inputs["start"])))
    recipe, index = finetune.Recipe(**config["recipe"]), owned(config, data, seed)
    log = finetune.tune(model.to(accelerator()), config["model"], data, recipe, seed, index=index)
    files.save_tensors(out / experts.DELTA, deltas.delta(model.cpu().state_dict(), base))
    files.write_json(out / experts.LOG, log)
