"""iCaRL as MTIL's authors adapt it: the base teaches on stored exemplars of earlier tasks, with the newcomer's texts.

So their code does by default (no ``--ref-model``): the teacher is θ⁰, not the model before the task, and the exemplars
are compared with the class texts of the task at hand, not with their own. Classification stays CLIP's (text heads, not
iCaRL's nearest class mean), as in ZSCL's comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from clipmerge.clip import evaluate, models
from clipmerge.clip.datasets import Dataset
from clipmerge.study import experts
from clipmerge.study.baselines import reference, sequential
from clipmerge.study.baselines.sequential import Change, Task
from clipmerge.study.cache.step import Step
from clipmerge.study.condu.contract import Session, method


@dataclass(frozen=True)
class Options:
    """temperature: of distillation (ZSCL's scripts: 2); memory: exemplars in all (ZSCL's scripts: 10,000)."""

    temperature: float = 2.0
    memory: int = 10000


@method("icarl", answers="single", chain=True)
def keep(session: Session) -> Step:
    """The model, further along its chain."""
    earlier = [experts.task_config(session.profile, task) for task in session.order[: session.number - 1]]
    return sequential.link(session, learn, session.options(Options), earlier=earlier)


def learn(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: one task, with the exemplars at hand."""
    sequential.tune(out, config, inputs, seed, rehearse)


def rehearse(task: Task) -> Change:
    """``CE + KD_T(θ⁰ → θ)`` on stored exemplars and the new task's class texts, both ways."""
    earlier = [experts.dataset(past) for past in task.config["earlier"]]
    if not earlier:
        return Change()
    options = task.config["options"]
    images, _ = exemplars(earlier, options["memory"], task.seed)
    teacher = models.create(task.name)
    old = evaluate.features(teacher, images)
    texts = reference.text_features(teacher, reference.class_tokens(task.name, task.data))
    return Change(sequential.distil_on_others(task, images, old, texts, options["temperature"]))


def exemplars(
    earlier: Sequence[Dataset], memory: int, seed: int
) -> tuple[UInt8[Tensor, "m h w 3"], list[Int64[Tensor, " k"]]]:
    """A memory of past images, shared evenly by all past classes (at least one each), drawn at random.

    Returns the images, all tasks together, and which train images of each task were taken. iCaRL picks them by herding
    towards the class mean; at two images a class there is little to herd (simplified).
    """
    each = max(1, memory // max(1, sum(len(data.classes) for data in earlier)))
    picked = []
    for data in earlier:
        shuffled = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(seed))
        labels = data.train_labels[shuffled]
        rows = [shuffled[labels == label][:each] for label in range(len(data.classes))]
        picked.append(torch.cat(rows))
    return torch.cat([data.train_images[rows] for data, rows in zip(earlier, picked, strict=True)]), picked
