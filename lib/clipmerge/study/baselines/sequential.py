"""Sequential baselines of ConDU's Table 1: fine-tuning on and on, each with its own way of holding on to the past.

They share start, batches, optimiser and number of steps with continual fine-tuning (`experts.continual`), so they
differ in nothing but what their function below says. Definitions: ZSCL (arXiv 2303.06628) and its code.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipmerge import files
from clipmerge.clip import evaluate, finetune, models, training
from clipmerge.clip.datasets import Dataset
from clipmerge.study import experts, profiles
from clipmerge.study.baselines import losses, reference
from clipmerge.study.cache.step import Step
from clipmerge.study.profiles import Profile

WORDS = 10  # tokens of a random sentence (LwF-VR)


@dataclass(frozen=True)
class Task:
    """What a baseline may look at while it learns one task."""

    model: nn.Module  # the learner, as the task before has left it
    start: nn.Module  # a frozen copy of that
    name: str  # of the architecture
    data: Dataset
    earlier: tuple[Dataset, ...]
    options: Mapping  # section `baselines` of the profile
    inputs: Mapping[str, Path]
    seed: int


@dataclass(frozen=True)
class Change:
    """How a baseline departs from plain fine-tuning: its loss, what it does after each step, and at the very end."""

    loss: Callable[..., Tensor] = finetune.class_loss
    after: Callable[[int], None] | None = None
    finish: Callable[[], None] | None = None


def l2(task: Task) -> Change:
    """Weight consolidation: ``CE + λ Σ(θ − θ_start)²``, anchored at the start of the task (ZSCL's ``--l2``)."""
    anchor = dict(task.start.named_parameters())

    def loss(model: nn.Module, *batch) -> Tensor:
        return finetune.class_loss(model, *batch) + task.options["l2"] * losses.penalty(model, anchor)

    return Change(loss)


def lwf(task: Task) -> Change:
    """Learning without forgetting: ``CE + KD_T(θ_{t−1} → θ)`` on the task's own images and class texts, both ways."""
    return _distil_on_batch(task, reference.class_tokens(task.name, task.data))


def lwf_vr(task: Task) -> Change:
    """LwF with a virtual vocabulary: as `lwf`, but the texts are sentences of random tokens (VR-LwF, Ding et al.)."""
    frame, generator = reference.class_tokens(task.name, task.data)[0], training.generator(task.seed, 0)
    return _distil_on_batch(task, losses.random_sentences(task.options["sentences"], WORDS, frame, generator))


def icarl(task: Task) -> Change:
    """iCaRL as MTIL's authors adapt it: ``CE + KD_T(θ_{t−1} → θ)`` on stored exemplars and their tasks' class texts.

    Classification stays CLIP's (text heads, not iCaRL's nearest class mean), as in ZSCL's comparison.
    """
    if not task.earlier:
        return Change()
    images, _ = reference.exemplars(task.earlier, task.options["memory"], task.seed)
    tokens = torch.cat([reference.class_tokens(task.name, data) for data in task.earlier])
    old, texts = evaluate.features(task.start, images), reference.text_features(task.start, tokens)
    return Change(_distil_on_others(task, images, old, texts))


def wise_ft(task: Task) -> Change:
    """WiSE-FT, sequential form: train with CE alone, then ``θ_t ← α θ_t + (1 − α) θ_{t−1}`` with α = 0.8."""

    @torch.no_grad()
    def finish() -> None:
        for p, before in zip(task.model.parameters(), task.start.parameters(), strict=True):
            p.copy_(task.options["wise"] * p + (1 - task.options["wise"]) * before)

    return Change(finish=finish)


def zscl(task: Task) -> Change:
    """ZSCL: ``CE + KD_T(θ⁰ → θ)`` on reference images and texts, both ways, ``+ λ Σ(θ − θ_start)²``, weights averaged.

    The result is the uniform mean of the start and of the weights after step 1 and then every so many steps. Reference
    images and captions are of the pretraining pool and a few thousand (ZSCL: 100,000 of ImageNet), fixed once.
    """
    about = files.load_tensors(task.inputs["reference"] / reference.REFERENCE)
    hold = _distil_on_others(task, about["images"], about["z"], about["w"])
    anchor = dict(task.start.named_parameters())
    mean, every = {name: p.detach().clone() for name, p in anchor.items()}, task.options["ensemble_every"]

    def loss(model: nn.Module, *batch) -> Tensor:
        return hold(model, *batch) + task.options["l2"] * losses.penalty(model, anchor)

    @torch.no_grad()
    def after(step: int) -> None:
        if step % every == 0:
            losses.fold(mean, task.model.named_parameters(), 1 + step // every)

    @torch.no_grad()
    def finish() -> None:
        for name, p in task.model.named_parameters():
            p.copy_(mean[name])

    return Change(loss, after, finish)


def _distil_on_batch(task: Task, tokens: Tensor) -> Change:
    """CE and distillation from the start of the task, on the images of the training batch itself."""
    texts = reference.text_features(task.start, tokens)

    def loss(model: nn.Module, images: Tensor, labels: Tensor, tokens: Tensor, smoothing: float) -> Tensor:
        heads = models.encode_text(model, tokens, pieces=1 + len(tokens) // models.TEXTS)
        z, scale = models.encode_image(model, images), model.logit_scale.exp()
        with torch.no_grad():
            old = models.encode_image(task.start, images)
        own = F.cross_entropy(scale * z @ heads.T, labels.to(z.device), label_smoothing=smoothing)
        return own + losses.both_ways(old, z, texts, scale, task.options["temperature"])

    return Change(loss)


def _distil_on_others(task: Task, images: Tensor, old: Tensor, texts: Tensor) -> Callable[..., Tensor]:
    """CE on the batch and distillation on as many other images, whose features `old` a frozen teacher has given."""
    steps, device = itertools.count(), next(task.model.parameters()).device
    old, texts = old.to(device), texts.to(device)

    def loss(model: nn.Module, batch: Tensor, *rest) -> Tensor:
        generator = training.generator(task.seed + 1, next(steps))  # not the one that draws the batch
        pick = torch.randint(len(images), (len(batch),), generator=generator)
        new, scale = models.encode_image(model, images[pick]), model.logit_scale.exp()
        held = losses.both_ways(old[pick.to(device)], new, texts, scale, task.options["temperature"])
        return finetune.class_loss(model, batch, *rest) + held

    return loss


METHODS: dict[str, Callable[[Task], Change]] = {
    "l2": l2,
    "lwf": lwf,
    "lwf-vr": lwf_vr,
    "icarl": icarl,
    "wise-ft": wise_ft,
    "zscl": zscl,
}
# What of the profile's section each of them depends on: another one's setting is then no concern of its cache.
OPTIONS = {
    "l2": ("l2",),
    "lwf": ("temperature",),
    "lwf-vr": ("temperature", "sentences"),
    "icarl": ("temperature", "memory"),
    "wise-ft": ("wise",),
    "zscl": ("temperature", "l2", "ensemble_every"),
}


def chain(profile: Profile, method: str, order: Sequence[str], seed: int, held_out: int | None = None) -> list[Step]:
    """One step a task, each starting from the weights that the one before has left (the first from the base)."""
    options = {key: getattr(profile.baselines, key) for key in OPTIONS[method]}
    links: list[Step] = []
    for t, task in enumerate(order):
        recipe = profiles.recipe(profile, task)
        config = {"method": method, "model": profile.model, "recipe": recipe, "held_out": held_out}
        config |= {"options": options, **experts.task_config(profile, task)}
        inputs = experts.base_inputs(profile.model) | ({"start": links[-1]} if links else {})
        if method == "icarl":
            config["earlier"] = [experts.task_config(profile, past) for past in order[:t]]
        if method == "zscl":
            inputs["reference"] = reference.step(profile)
        links.append(Step(learn, f"{method}/{experts.label(profile.model)}/{task}", config, inputs, seed))
    return links


def learn(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: fine-tune on one task in the way of ``config["method"]``; write the delta from the base."""
    (model, base), data = experts.learner(config, inputs), experts.dataset(config)
    model.logit_scale.requires_grad_(False)
    start = deepcopy(model).requires_grad_(False)
    earlier = tuple(experts.dataset(past) for past in config.get("earlier", ()))
    change = METHODS[config["method"]](
        Task(model, start, config["model"], data, earlier, config["options"], inputs, seed)
    )
    recipe, index = finetune.Recipe(**config["recipe"]), experts.usable(config, data)
    log = finetune.tune(model, config["model"], data, recipe, seed, loss=change.loss, index=index, after=change.after)
    if change.finish:
        change.finish()
    experts.leave(out, model.cpu().state_dict(), base, log)
