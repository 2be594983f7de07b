"""WiSE-FT, sequential form: train with cross-entropy alone, then step back towards where the task began."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from clipmerge.study.baselines import sequential
from clipmerge.study.baselines.sequential import Change, Task
from clipmerge.study.cache.step import Step
from clipmerge.study.condu.contract import Session, method


@dataclass(frozen=True)
class Options:
    """share: of the new weights, α (ZSCL's scripts: 0.8)."""

    share: float = 0.8


@method("wise-ft", answers="single", chain=True)
def keep(session: Session) -> Step:
    """The model, further along its chain."""
    return sequential.link(session, learn, session.options(Options))


def learn(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: one task, then the step back."""
    sequential.tune(out, config, inputs, seed, interpolate)


def interpolate(task: Task) -> Change:
    """``θ_t ← α θ_t + (1 − α) θ_{t−1}`` once the task is learned."""
    share = task.config["options"]["share"]

    @torch.no_grad()
    def finish() -> None:
        for p, before in zip(task.model.parameters(), task.start.parameters(), strict=True):
            p.copy_(share * p + (1 - share) * before)

    return Change(finish=finish)
