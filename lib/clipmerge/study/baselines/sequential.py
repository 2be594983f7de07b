"""Fine-tuning on and on, each method with its own way of holding on to the past: what they have in common.

Start, batches, optimiser and number of steps are those of continual fine-tuning, so methods differ in nothing but the
`Change` each makes. Definitions: ZSCL (arXiv 2303.06628) and its code.
"""

import itertools
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipmerge.clip import finetune, models, training
from clipmerge.clip.datasets import Dataset
from clipmerge.study import experts, profiles
from clipmerge.study.baselines import losses, reference
from clipmerge.study.cache.step import Step
from clipmerge.study.condu.contract import Session


@dataclass(frozen=True)
class Task:
    """What a baseline may look at while it learns one task."""

    model: nn.Module  # the learner, as the task before has left it
    start: nn.Module  # a frozen copy of that
    name: str  # of the architecture
    data: Dataset
    config: Mapping
    inputs: Mapping[str, Path]
    seed: int


@dataclass(frozen=True)
class Change:
    """How a baseline departs from plain fine-tuning: its loss, what it does after each step, and at the very end."""

    loss: Callable[..., Tensor] = finetune.class_loss
    after: Callable[[int], None] | None = None
    finish: Callable[[], None] | None = None


def link(
    session: Session, learn: Callable, options: object, inputs: Mapping[str, Step] | None = None, **config: object
) -> Step:
    """The step that learns a session's task from where the session before has ended (the first from the base).

    `learn` is a step function made of `tune` below; its config holds the method's `options` by name.
    """
    profile = session.profile
    way = "chain" if session.learner.way == "finetune" else session.learner.way
    recipe = profiles.recipe(profile, session.task, way)
    config |= {"recipe": recipe, "options": asdict(options), **session.learner.config}
    config |= {"model": session.model, "compute": profile.compute.numerics}
    config |= experts.task_config(profile, session.task)
    inputs = experts.base_inputs(session.model, session.earlier) | (inputs or {})
    return Step(learn, f"{session.name}/{session.task}", config, inputs, session.seed)


def tune(
    out: Path, config: Mapping, inputs: Mapping[str, Path], seed: int, change: Callable[[Task], Change]
) -> None:
    """Fine-tune on one task with a `change`; write the delta from the base and the loss curve."""
    model, base = experts.learner(config, inputs)
    data = experts.dataset(config)
    model.logit_scale.requires_grad_(False)
    start = deepcopy(model).requires_grad_(False)
    made = change(Task(model, start, config["model"], data, config, inputs, seed))
    index = experts.usable(config, data, seed)
    recipe = finetune.Recipe(**config["recipe"])
    log = finetune.tune(model, config["model"], data, recipe, seed, loss=made.loss, index=index, after=made.after)
    if made.finish:
        made.finish()
    experts.leave(out, models.state(model), base, log)


def distil_on_batch(task: Task, tokens: Tensor, temperature: float) -> Change:
    """CE and distillation from the start of the task, on the images of the training batch itself."""
    texts = reference.text_features(task.start, tokens)

    def loss(model: nn.Module, images: Tensor, labels: Tensor, tokens: Tensor, smoothing: float) -> Tensor:
        heads = models.encode_text(model, tokens, pieces=1 + len(tokens) // models.TEXTS)
        z = models.encode_image(model, images)
        scale = model.logit_scale.exp()
        with torch.no_grad():
            old = models.encode_image(task.start, images)
        own = F.cross_entropy(scale * z @ heads.T, labels.to(z.device), label_smoothing=smoothing)
        return own + losses.both_ways(old, z, texts, scale, temperature)

    return Change(loss)


def distil_on_others(
    task: Task, images: Tensor, old: Tensor, texts: Tensor, temperature: float
) -> Callable[..., Tensor]:
    """CE on the batch and distillation on as many other images, whose features `old` a frozen teacher has given."""
    steps = itertools.count()
    device = next(task.model.parameters()).device
    old, texts = old.to(device), texts.to(device)

    def loss(model: nn.Module, batch: Tensor, *rest) -> Tensor:
        generator = training.generator(task.seed + 1, next(steps))  # not the one that draws the batch
        pick = torch.randint(len(images), (len(batch),), generator=generator)
        new = models.encode_image(model, images[pick])
        held = losses.both_ways(old[pick.to(device)], new, texts, model.logit_scale.exp(), temperature)
        return finetune.class_loss(model, batch, *rest) + held

    return loss
