"""The step function that trains on one task of a stream; a module of its own keeps merging code out of its key."""

from collections.abc import Mapping
from pathlib import Path

import torch

from clipmerge import files
from clipmerge.clip import adapt, models, replay
from clipmerge.merge import deltas
from clipmerge.study import experts
from clipmerge.study.steps import accelerator


def train(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: train the base, or ``start``, on the pairs of one task mixed with replay; writes delta and log."""
    model = models.create(config["model"])
    base = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    if "start" in inputs:
        model.load_state_dict(deltas.apply_delta(base, experts.delta(inputs["start"])))
    data = {task["task"]: experts.dataset(task) for task in config["data"]}
    update = replay.source(data, config["update"], config["held_out"])
    buffer = replay.source(data, config["buffer"], config["held_out"]) if config["buffer"] else None
    sizes = tuple(config["sizes"])

    def batch(generator: torch.Generator) -> replay.Batch:
        return replay.mixed(sizes, update, buffer, config["scale_min"], generator)

    log = adapt.adapt(
        model.to(accelerator()), config["model"], batch, adapt.Recipe(**config["recipe"]), seed, config["number"]
    )
    files.save_tensors(out / experts.DELTA, deltas.delta(model.cpu().state_dict(), base))
    files.write_json(out / experts.LOG, log)
