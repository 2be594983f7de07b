"""ZSCL (Zheng et al., arXiv 2303.06628): the base teaches on reference pairs, and weights are averaged on the way.

Reference images and captions are of the pretraining pool and a few thousand (ZSCL: 100,000 of ImageNet), fixed once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from clipmerge import files
from clipmerge.study.baselines import losses, reference, sequential
from clipmerge.study.baselines.sequential import Change, Task
from clipmerge.study.cache.step import Step
from clipmerge.study.condu.contract import Session, method


@dataclass(frozen=True)
class Options:
    """strength: λ; every: steps between weights that are averaged; images, texts: of the reference (ZSCL's scripts)."""

    temperature: float = 2.0
    strength: float = 1.0
    every: int = 100
    images: int = 100000
    texts: int = 10000


@method("zscl", answers="single", chain=True)
def keep(session: Session) -> Step:
    """The model, further along its chain."""
    options = session.options(Options)
    pairs = reference.step(session.profile, options.images, options.texts)
    return sequential.link(session, learn, options, {"reference": pairs})


def learn(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: one task, with the reference pairs at hand."""
    sequential.tune(out, config, inputs, seed, hold)


def hold(task: Task) -> Change:
    """``CE + KD_T(θ⁰ → θ)`` on reference images and texts, both ways, ``+ λ Σ(θ − θ_start)²``, weights averaged.

    The result is the uniform mean of the start and of the weights after step 1 and then every so many steps.
    """
    options = task.config["options"]
    pairs = files.load_tensors(task.inputs["reference"] / reference.REFERENCE)
    distil = sequential.distil_on_others(task, pairs["images"], pairs["z"], pairs["w"], options["temperature"])
    anchor = dict(task.start.named_parameters())
    mean = {name: p.detach().clone() for name, p in anchor.items()}

    def loss(model: nn.Module, *batch) -> Tensor:
        return distil(model, *batch) + options["strength"] * losses.penalty(model, anchor)

    @torch.no_grad()
    def after(step: int) -> None:
        if step % options["every"] == 0:
            losses.fold(mean, task.model.named_parameters(), 1 + step // options["every"])

    @torch.no_grad()
    def finish() -> None:
        for name, p in task.model.named_parameters():
            p.copy_(mean[name])

    return Change(loss, after, finish)
