"""Reading answers off models: features, accuracy, prototypes, and which experts are nearest.

Inference of ConDU (paper §4.3). A task that has been seen is answered by its own decoupled expert. For an unseen task,
or one whose identity is unknown, the base's image feature z is compared with the prototypes of every seen task; each
image is answered by the base and its K nearest experts together, the mean of their logits.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from clipmerge.clip import models, prompts
from clipmerge.clip.data import fomo
from clipmerge.clip.data.recall import recall
from clipmerge.clip.data.unread import Unread
from clipmerge.clip.datasets import Dataset

SCALE = 100.0  # CLIP's logit scale at the end of training; argmax and mean do not depend on it
BATCH = 128  # activations of a larger one do not fit into the caches


@torch.no_grad()
def features(model: nn.Module, images: UInt8[Tensor, "n h w 3"] | Unread, batch: int = BATCH) -> Float[Tensor, "n dim"]:
    """Unit image features, computed in batches, on the CPU."""
    if not len(images):
        return torch.zeros(0, model.visual.output_dim)
    parts = images.middles(models.image_size(model), batch) if isinstance(images, Unread) else images.split(batch)
    return torch.cat([models.encode_image(model, part).cpu() for part in parts])


def accuracy(logits: Float[Tensor, "n classes"], labels: Int64[Tensor, " n"]) -> float:
    """Top-1 accuracy in per cent."""
    return 100 * (logits.argmax(1) == labels).double().mean().item()


def head(model: nn.Module, name: str, dataset: Dataset) -> Float[Tensor, "classes dim"]:
    """The zero-shot head of a dataset from this model's own text tower, all templates averaged."""
    return prompts.head(model, name, dataset.classes, dataset.templates).cpu()


def test_logits(
    model: nn.Module, name: str, dataset: Dataset, chosen: Bool[Tensor, " n"] | None = None
) -> Float[Tensor, "m classes"]:
    """Logits 100·cos of the (chosen) test images of a dataset over its own classes."""
    images = dataset.test_images if chosen is None else dataset.test_images[chosen]
    return SCALE * features(model, images) @ head(model, name, dataset).T


def test_accuracy(model: nn.Module, name: str, dataset: Dataset) -> float:
    """Test accuracy (per cent) of a model as zero-shot classifier over the dataset's own classes.

    A set without classes has captions: of these it is recall at 5 (`data.recall`), in per cent too.
    """
    if not dataset.classes:
        texts, owner = fomo.retrieval(dataset.test_images.texts())
        return 100 * recall(features(model, dataset.test_images), _text_features(model, name, texts), owner)
    return accuracy(test_logits(model, name, dataset), dataset.test_labels)


@torch.no_grad()
def _text_features(model: nn.Module, name: str, texts: Sequence[str]) -> Float[Tensor, "n dim"]:
    tokens = models.tokenizer(name)(texts)
    return torch.cat([models.encode_text(model, part).cpu() for part in tokens.split(BATCH)])


def prototypes(
    z: Float[Tensor, "n dim"], labels: Int64[Tensor, " n"], text: Float[Tensor, "classes dim"], side: str = "both"
) -> Float[Tensor, "classes dim"]:
    """One prototype a class: normalise(½ (mean image feature + mean text feature)), or the one or other `side` of it.

    `text` is the mean over templates of unit text features; a class without images has its text alone.
    """
    if side == "text":
        return F.normalize(text, dim=-1)
    count = torch.bincount(labels, minlength=len(text))[:, None]
    image = torch.zeros_like(text).index_add_(0, labels, z) / count.clamp(min=1)
    mixed = image if side == "image" else (image + text) / 2
    return F.normalize(torch.where(count > 0, mixed, text), dim=-1)


def texts(
    model: nn.Module, name: str, classes: Sequence[str], templates: Sequence[str]
) -> Float[Tensor, "classes dim"]:
    """The text side of prototypes: the mean over templates of unit text features."""
    heads = [prompts.head(model, name, classes, [template]).cpu() for template in templates]
    return torch.stack(heads).mean(0)


def similarity(z: Float[Tensor, "n dim"], prototype_sets: Sequence[Float[Tensor, "_ dim"]]) -> Float[Tensor, "n tasks"]:
    """Score of each task for each image: the cosine with the nearest of its prototypes."""
    return torch.stack([(z @ set_.T).amax(1) for set_ in prototype_sets], 1)


def nearest(scores: Float[Tensor, "n tasks"], k: int) -> Bool[Tensor, "n tasks"]:
    """Which experts answer which image: the k highest scores of each row (all, where there are fewer)."""
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    return chosen.scatter_(1, scores.topk(min(k, scores.shape[1]), dim=1).indices, True)
