"""Tuning on one task of a stream: CLIP's contrastive loss on image–caption pairs, as TIME trains.

Unlike `finetune`, which classifies, nothing here knows a task's set of classes; the temperature is learned too. Each
task has a new optimiser and its own warm-up and cosine.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from clipmerge.clip import models, pretrain, training
from clipmerge.clip.pairs import Pairs
from clipmerge.clip.recipes import Adapt as Recipe

CHECKPOINT_EVERY = 100  # steps
TASKS = 10_000  # more tasks than any stream has: seeds of (seed, task) never meet


def adapt(
    model: nn.Module,
    name: str,
    batch: Callable[[torch.Generator], Pairs],
    recipe: Recipe,
    seed: int = 0,
    task: int = 0,
    checkpoint: Path | None = None,
) -> list[dict]:
    """Train `model` (of architecture `name`) in place; returns the loss log.

    Step s draws its batch from a generator of (seed, task, s): whatever the start, a task shows the same pairs. With
    `checkpoint` the state is saved now and then, and an interrupted run continues there, bit for bit.
    """
    model.train()
    tokenize = models.tokenizer(name)
    betas = (recipe.beta1, recipe.beta2)
    optimizer = training.adamw(model, recipe.lr, recipe.weight_decay, betas, whole=recipe.decay == "all")
    start, log = training.resume(checkpoint, model, optimizer) if checkpoint else (0, [])
    warmup = round(recipe.warmup * recipe.steps)
    steps = range(start, recipe.steps)
    drawn = training.batches(lambda step: batch(training.generator(seed * TASKS + task, step)), steps)
    for step, pairs in zip(steps, drawn, strict=True):
        image = models.encode_image(model, pairs.images)
        text = models.encode_text(model, tokenize(pairs.captions))
        scale = model.logit_scale.exp()
        names = pairs.names if recipe.positives == "name" else range(len(pairs.names))
        loss = pretrain.contrastive(image.cpu(), text.cpu(), scale.cpu(), names)  # small: its place costs nothing
        lr = training.rate(step, recipe.steps, recipe.lr, warmup, recipe.floor)
        training.descend(model, optimizer, loss, lr, recipe.clip_norm)
        training.cap_scale(model)
        log.append({"step": step, "loss": loss.item()})
        if checkpoint and (step + 1) % CHECKPOINT_EVERY == 0:
            training.save(checkpoint, model, optimizer, step + 1, log)
    model.eval()
    return log
