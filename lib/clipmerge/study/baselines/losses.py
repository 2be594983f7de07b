"""The losses by which sequential baselines hold on to the past: distances of weights, and of answers.

A teacher's answers are its probabilities over texts for an image, and over images for a text, both softened by a
temperature T. Image features z, text features w are unit length; logits are ``scale · z @ w.T``.
"""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn


def penalty(model: nn.Module, anchor: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Weight consolidation: ``Σ (θ − anchor)²`` over all trained parameters (ZSCL §4.3; its code sums, too)."""
    return sum((p - anchor[name]).square().sum() for name, p in model.named_parameters() if p.requires_grad)


def soften(teacher: Float[Tensor, "n k"], student: Float[Tensor, "n k"], temperature: float) -> Float[Tensor, ""]:
    """Distillation of logits: ``T² · CE(softmax(teacher/T), softmax(student/T))``, mean over rows (Hinton et al.)."""
    return temperature**2 * F.cross_entropy(student / temperature, F.softmax(teacher / temperature, dim=1))


def both_ways(
    teacher: Float[Tensor, "n dim"],
    student: Float[Tensor, "n dim"],
    texts: Float[Tensor, "k dim"],
    scale: float | Tensor,
    temperature: float,
) -> Float[Tensor, ""]:
    """Image→text and text→image distillation (ZSCL eq. 4): the student's image features against the teacher's texts.

    Both sides meet the *teacher's* text features, as in ZSCL's code: the student's text tower is held only through the
    images it must still agree with.
    """
    old, new = scale * teacher @ texts.T, scale * student @ texts.T
    return soften(old, new, temperature) + soften(old.T, new.T, temperature)


def random_sentences(
    n: int, length: int, frame: Int64[Tensor, " context"], generator: torch.Generator
) -> Int64[Tensor, "n context"]:
    """LwF-VR's virtual vocabulary: `n` rows of `length` random tokens between start and end of text.

    `frame` is any tokenised text of the model: its first token is the start, its largest the end of text.
    """
    start, end = int(frame[0]), int(frame.max())
    rows = torch.zeros(n, len(frame), dtype=torch.int64)
    words = min(length, len(frame) - 2)
    rows[:, 0], rows[:, words + 1] = start, end
    rows[:, 1 : words + 1] = torch.randint(1, start, (n, words), generator=generator)
    return rows


def fold(mean: Mapping[str, Tensor], new: Iterable[tuple[str, Tensor]], count: int) -> None:
    """Running mean in place: ``mean ← (count · mean + new) / (count + 1)``, `count` being how many it holds so far."""
    for name, tensor in new:
        mean[name] += (tensor - mean[name]) / (count + 1)
