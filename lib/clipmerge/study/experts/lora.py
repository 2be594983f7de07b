"""LoRA experts as cached steps: what tuning changed in the factors A and B, from where all experts of a seed start.

Factors are unified as they are, or multiplied out first (`expand`) into a delta of the dense weights.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from clipmerge import files
from clipmerge.clip import finetune, lora, models
from clipmerge.merge import deltas
from clipmerge.study import experts
from clipmerge.study.cache import isolation


def start(config: Mapping) -> dict[str, Tensor]:
    """The factors that all experts of one ``init_seed`` start from."""
    return lora.initial(models.create(config["model"]), **config["lora"], seed=config["init_seed"])


def tune(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: fine-tune the factors alone, then write how far they have moved, and the loss curve."""
    data, begin = experts.dataset(config), start(config)
    model = lora.inject(models.create(config["model"]), begin)
    recipe, index = finetune.Recipe(**config["recipe"]), experts.usable(config, data, seed)
    log = finetune.tune(model, config["model"], data, recipe, seed, checkpoint=isolation.checkpoint(), index=index)
    experts.leave(out, lora.read(model), begin, log)


def multiply(begin: Mapping[str, Tensor], change: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """s · (B₀ + δB)(A₀ + δA) for all layers: the dense delta of factors that have moved by `change`."""
    return lora.product(deltas.apply_delta(begin, change))


def expand(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: the delta s · B A of the dense weights, from the base, that an expert's factors amount to."""
    files.save_tensors(out / experts.DELTA, multiply(start(config), experts.delta(inputs["expert"])))


def rebase(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: an expert's factors minus *another* initialisation, as the authors' code takes its deltas."""
    tuned = deltas.apply_delta(start(config | {"init_seed": config["true_seed"]}), experts.delta(inputs["expert"]))
    files.save_tensors(out / experts.DELTA, deltas.delta(tuned, start(config)))
