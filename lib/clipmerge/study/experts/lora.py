"""LoRA experts as cached steps: what tuning changed in the factors A and B, from where all experts of a seed start.

Apart from `adapters`, so that a change to how deltas are unified tunes no expert again.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from clipmerge.clip import finetune, lora, models
from clipmerge.study import experts
from clipmerge.study.cache.step import accelerator
from clipmerge.study.experts import fewshot as fewshot_experts


def start(config: Mapping) -> dict[str, Tensor]:
    """The factors that all experts of one ``init_seed`` start from."""
    return lora.initial(models.create(config["model"]), **config["lora"], seed=config["init_seed"])


def tune(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: fine-tune the factors alone, then write how far they have moved, and the loss curve."""
    data, begin = experts.dataset(config), start(config)
    model = lora.inject(models.create(config["model"]), begin).to(accelerator())
    recipe, index = finetune.Recipe(**config["recipe"]), fewshot_experts.owned(config, data, seed)
    log = finetune.tune(model, config["model"], data, recipe, seed, index=index)
    experts.leave(out, lora.read(model.cpu()), begin, log)
