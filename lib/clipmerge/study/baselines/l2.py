"""Weight consolidation (ZSCL's ``--l2``): a rubber band to the weights with which each task began."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from clipmerge.clip import finetune
from clipmerge.study.baselines import losses, sequential
from clipmerge.study.baselines.sequential import Change, Task
from clipmerge.study.cache.step import Step
from clipmerge.study.condu.contract import Session, method


@dataclass(frozen=True)
class Options:
    """strength: λ (ZSCL's scripts: 1)."""

    strength: float = 1.0


@method("l2", answers="single", chain=True)
def keep(session: Session) -> Step:
    """The model, further along its chain."""
    return sequential.link(session, learn, session.options(Options))


def learn(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: one task with the rubber band."""
    sequential.tune(out, config, inputs, seed, band)


def band(task: Task) -> Change:
    """``CE + λ Σ(θ − θ_start)²``, anchored at the start of the task."""
    anchor = dict(task.start.named_parameters())
    strength = task.config["options"]["strength"]

    def loss(model: nn.Module, *batch) -> Tensor:
        return finetune.class_loss(model, *batch) + strength * losses.penalty(model, anchor)

    return Change(loss)
