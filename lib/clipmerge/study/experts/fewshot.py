"""Few-shot learning: which images a learner owns that is given a handful of each class, and tuning on them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from clipmerge.clip import datasets, finetune
from clipmerge.errors import BadInput
from clipmerge.study import experts


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
    index = experts.usable(config, data)
    if config.get("shots") is not None:
        index = index[draw(data.train_labels[index], config["shots"], seed)]
    return index


def tune(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: as `experts.tune`, on a few images of each class."""
    (model, base), data = experts.learner(config, inputs), experts.dataset(config)
    recipe, index = finetune.Recipe(**config["recipe"]), owned(config, data, seed)
    log = finetune.tune(model, config["model"], data, recipe, seed, index=index)
    experts.leave(out, model.cpu().state_dict(), base, log)
