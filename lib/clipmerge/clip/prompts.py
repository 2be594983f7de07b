"""From class names to classifiers: CLIP's zero-shot heads.

A head is one unit text feature per class, the mean over the dataset's templates; logits are scaled cosines with it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from clipmerge.clip import models


def fill(template: str, classes: Sequence[str]) -> list[str]:
    """One text per class: the template with its ``{}`` replaced by the class name."""
    return [template.format(name) for name in classes]


def tokens(name: str, classes: Sequence[str], template: str) -> Int64[Tensor, "classes context"]:
    """Token ids of one template for all classes, with the tokenizer of model `name`."""
    return models.tokenizer(name)(fill(template, classes))


@torch.no_grad()
def head(model: nn.Module, name: str, classes: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "classes dim"]:
    """The template-ensembled zero-shot head: mean of unit text features per class, made unit length again."""
    texts = [tokens(name, classes, template) for template in templates]
    features = [models.encode_text(model, each, pieces=1 + len(each) // models.TEXTS) for each in texts]
    return F.normalize(torch.stack(features).mean(0), dim=-1)
