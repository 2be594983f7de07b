"""Fisher information of an expert: which of its weights its own task depends on (Matena & Raffel, arXiv 2111.09832)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipmerge.clip import models, prompts, training
from clipmerge.clip.datasets import Dataset


def diagonal(model: nn.Module, name: str, data: Dataset, batches: int, batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Diagonal of the Fisher information, E_x E_{y ~ p(y|x)} [∂ log p(y|x) / ∂θ]², from a few training batches.

    Labels are drawn from the model's own answers, under which the score ∂ log p has mean zero: mixed terms of a batch
    vanish on average, so (size of the batch) · (gradient of its mean loss)² is an unbiased estimate and no gradient per
    image is needed. Keys and shapes are those of the state dict's floating-point entries; whatever is frozen has zeros.
    """
    fisher = {key: torch.zeros_like(x) for key, x in model.state_dict().items() if x.is_floating_point()}
    tokens = prompts.tokens(name, data.classes, data.templates[0])
    for step in range(batches):
        generator = training.generator(seed, step)
        images = data.train_images[torch.randint(len(data.train_images), (batch,), generator=generator)]
        for key, gradient in _gradients(model, images, tokens, generator).items():
            fisher[key] += batch / batches * gradient.square()
    return fisher


def _gradients(model: nn.Module, images: Tensor, tokens: Tensor, generator: torch.Generator) -> Mapping[str, Tensor]:
    """Gradient of the mean −log p of a batch whose labels the model itself has drawn."""
    heads = models.encode_text(model, tokens, pieces=1 + len(tokens) // models.TEXTS)
    logits = model.logit_scale.exp() * models.encode_image(model, images) @ heads.T
    labels = torch.multinomial(logits.detach().softmax(1), 1, generator=generator).squeeze(1)
    free = {key: p for key, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(F.cross_entropy(logits, labels), list(free.values()), allow_unused=True)
    return {key: gradient for key, gradient in zip(free, found, strict=True) if gradient is not None}
