"""Step functions for LoRA: tune an expert's factors, multiply them out, grade experts whose factors were unified.

A LoRA expert's ``delta.safetensors`` holds what tuning changed in A and in B, from the initialisation that all experts
of a seed share. `expand` turns it into a delta of the dense weights. `sessions` unifies either kind.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from clipmerge import files
from clipmerge.clip import datasets, finetune, lora, models
from clipmerge.merge import deltas
from clipmerge.study import experts, grading, sessions, shots
from clipmerge.study.steps import accelerator


def start(config: Mapping) -> dict[str, Tensor]:
    """The factors that all experts of one ``init_seed`` start from."""
    return lora.initial(models.create(config["model"]), **config["lora"], seed=config["init_seed"])


def owned(config: Mapping, data: datasets.Dataset, seed: int) -> Tensor:
    """Indices of the training images a learner may use: without a held-out part, and only some shots if so asked."""
    index = torch.arange(len(data.train_labels))
    if config.get("held_out") is not None:
        index = datasets.validation_split(data, seed=config["held_out"])[0]
    if config.get("shots") is not None:
        index = index[shots.draw(data.train_labels[index], config["shots"], seed)]
    return index


def tune(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: fine-tune the factors alone, then write how far they have moved, and the loss curve."""
    data, begin = experts.dataset(config), start(config)
    model = lora.inject(models.create(config["model"]), begin).to(accelerator())
    recipe, index = finetune.Recipe(**config["recipe"]), owned(config, data, seed)
    log = finetune.tune(model, config["model"], data, recipe, seed, index=index)
    files.save_tensors(out / experts.DELTA, deltas.delta(lora.read(model.cpu()), begin))
    files.write_json(out / experts.LOG, log)


def rebase(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: an expert's factors minus *another* initialisation, as the authors' code takes its deltas."""
    tuned = deltas.apply_delta(start(config | {"init_seed": config["true_seed"]}), experts.delta(inputs["expert"]))
    files.save_tensors(out / experts.DELTA, deltas.delta(tuned, start(config)))


def expand(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: the delta s · B A of the dense weights, from the base, that an expert's factors amount to."""
    files.save_tensors(out / experts.DELTA, multiply(start(config), experts.delta(inputs["expert"])))


def multiply(begin: Mapping[str, Tensor], change: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """s · (B₀ + δB)(A₀ + δA) for all layers: the dense delta of factors that have moved by `change`."""
    return lora.product(deltas.apply_delta(begin, change))


@contextmanager
def multiplied(config: Mapping, session: Path, count: int) -> Iterator[dict[str, Path]]:
    """The first `count` experts of a session that unified factors, as folders of dense deltas, for a while."""
    begin, unified = start(config), sessions.bank({"session": session})
    with tempfile.TemporaryDirectory() as scratch:
        folders = {f"expert.{i:02d}": Path(scratch, f"{i:02d}") for i in range(count)}
        for i, folder in enumerate(folders.values()):
            folder.mkdir()
            files.save_tensors(folder / experts.DELTA, multiply(begin, unified(i)))
        yield folders


def grade_factors(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: as `grading.grade_bank`, for a session that unified A and B, not their product."""
    others = {name: path for name, path in inputs.items() if name != "session"}
    with multiplied(config, inputs["session"], config["seen"]) as folders:
        grading.grade_bank(out, config=config, inputs=others | folders, seed=seed)
