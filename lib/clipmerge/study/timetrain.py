"""The step function that trains on one task of a stream; a module of its own keeps merging code out of its key."""

from collections.abc import Mapping
from pathlib import Path

import torch

from clipmerge.clip import adapt, replay
from clipmerge.clip.pairs import Pairs
from clipmerge.study import experts


def train(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: train the base, or ``start``, on the pairs of one task mixed with replay; writes delta and log."""
    model, base = experts.learner(config, inputs)
    data = {task["task"]: experts.dataset(task) for task in config["data"]}
    update = replay.source(data, config["update"], config["held_out"])
    buffer = replay.source(data, config["buffer"], config["held_out"]) if config["buffer"] else None
    sizes = tuple(config["sizes"])

    def batch(generator: torch.Generator) -> Pairs:
        return replay.mixed(sizes, update, buffer, config["scale_min"], generator)

    log = adapt.adapt(model, config["model"], batch, adapt.Recipe(**config["recipe"]), seed, config["number"])
    experts.leave(out, model.cpu().state_dict(), base, log)
