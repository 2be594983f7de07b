"""Tuning one expert: a CLIP model fine-tuned on one task, by ConDU's recipe scaled to the profile.

Both towers train, the temperature does not. The classifier is not a new layer: class logits are cosines with the text
features of one of the task's templates, recomputed at every step because the text tower moves too. The authors ask in
the first template. A small text tower does not carry what it learns over to other phrasings, so a recipe may have every
step draw one of all.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from clipmerge.clip import models, prompts, training
from clipmerge.clip.data.unread import Unread
from clipmerge.clip.datasets import Dataset
from clipmerge.clip.recipes import Finetune as Recipe

CHECKPOINT_EVERY = 200  # steps


def crop(
    images: UInt8[Tensor, "n h w 3"] | Unread, scale_min: float, generator: torch.Generator
) -> UInt8[Tensor, "n 3 size size"]:
    """RandomResizedCrop of a batch: an area share in [scale_min, 1] at a random place, resized back.

    Small drawings are cut square; photographs have their sides stretched by 3:4 to 4:3 (`views.anywhere`) as in CLIP's
    transforms.
    """
    if isinstance(images, Unread):
        return images.crop(scale_min, generator)
    x = images.permute(0, 3, 1, 2).float()
    area, u, v = torch.rand(3, len(x), generator=generator)
    side = (scale_min + (1 - scale_min) * area).sqrt()
    matrix = torch.zeros(len(x), 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = side
    matrix[:, 0, 2], matrix[:, 1, 2] = (2 * u - 1) * (1 - side), (2 * v - 1) * (1 - side)
    grid = F.affine_grid(matrix, x.shape, align_corners=False)
    cut = F.grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return cut.clamp(0, 255).round().to(torch.uint8)


def class_loss(
    model: nn.Module, images: UInt8[Tensor, "n *hwc"], labels: Int64[Tensor, " n"], tokens: Tensor, smoothing: float
) -> Float[Tensor, ""]:
    """Cross-entropy of temperature-scaled image–text cosines over the task's own classes."""
    heads = models.encode_text(model, tokens, pieces=1 + len(tokens) // models.TEXTS)
    logits = model.logit_scale.exp() * models.encode_image(model, images) @ heads.T
    return F.cross_entropy(logits, labels.to(logits.device), label_smoothing=smoothing)


def among(
    labels: Int64[Tensor, " n"], tokens: Int64[Tensor, "classes context"], most: int | None, generator: torch.Generator
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, "some context"]]:
    """The classes that one step tells apart: those of its batch and, up to `most`, others drawn at random.

    Gives the labels counted among them, and their tokens. Encoding 250 class texts costs twice what the images do.
    """
    if most is None or len(tokens) <= most:
        return labels, tokens
    own, dice = labels.unique(), torch.rand(len(tokens), generator=generator)
    dice[own] = -1.0  # before all others
    kept = dice.argsort()[: max(most, len(own))].sort().values
    return torch.searchsorted(kept, labels), tokens[kept]


def phrasings(name: str, dataset: Dataset, templates: str) -> list[Int64[Tensor, "classes context"]]:
    """Token ids of all classes in the templates that a recipe asks in: the dataset's "first", or "all"."""
    asked = dataset.templates if templates == "all" else dataset.templates[:1]
    return [prompts.tokens(name, dataset.classes, template) for template in asked]


def one_of(
    texts: list[Int64[Tensor, "classes context"]], generator: torch.Generator
) -> Int64[Tensor, "classes context"]:
    """One phrasing, drawn at random where there are several."""
    return texts[0] if len(texts) == 1 else texts[int(torch.randint(len(texts), (1,), generator=generator))]


def tune(
    model: nn.Module,
    name: str,
    dataset: Dataset,
    recipe: Recipe,
    seed: int = 0,
    loss: Callable[..., Tensor] = class_loss,
    checkpoint: Path | None = None,
    index: Int64[Tensor, " m"] | None = None,
    after: Callable[[int], None] | None = None,
) -> list[Mapping]:
    """Fine-tune `model` (of architecture `name`) in place on the training part of `dataset`; returns the loss log.

    Whatever of the model requires a gradient is trained, except the temperature. `index` restricts training to some
    images; `after` is called with the number of every finished step (to average weights, say). With `checkpoint` the
    state is saved now and then, and an interrupted run continues there, bit for bit.
    """
    model.train().logit_scale.requires_grad_(False)
    optimizer = training.adamw(model, recipe.lr, recipe.weight_decay, (recipe.beta1, recipe.beta2))
    start, log = training.resume(checkpoint, model, optimizer) if checkpoint else (0, [])
    index = torch.arange(len(dataset.train_labels)) if index is None else index
    steps = range(start, recipe.steps)
    drawn = training.batches(_draw(name, dataset, recipe, seed, index), steps)
    for step, (images, labels, texts) in zip(steps, drawn, strict=True):
        value = loss(model, images, labels, texts, recipe.label_smoothing)
        training.descend(model, optimizer, value, training.rate(step, recipe.steps, recipe.lr, recipe.warmup))
        log.append({"step": step, "loss": value.item()})
        if after:
            after(step)
        if checkpoint and (step + 1) % CHECKPOINT_EVERY == 0:
            training.save(checkpoint, model, optimizer, step + 1, log)
    model.eval().logit_scale.requires_grad_(True)
    return log


def _draw(
    name: str, dataset: Dataset, recipe: Recipe, seed: int, index: Int64[Tensor, " m"]
) -> Callable[[int], tuple[Tensor, Tensor, Tensor]]:
    """The batch of a step, a function of its number: images, labels, texts."""
    asked = phrasings(name, dataset, recipe.templates)

    def draw(step: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = training.generator(seed, step)
        pick = index[torch.randint(len(index), (recipe.batch,), generator=generator)]
        images = crop(dataset.train_images[pick], recipe.scale_min, generator)
        tokens = one_of(asked, generator)
        return images, *among(dataset.train_labels[pick], tokens, recipe.classes, generator)

    return draw
