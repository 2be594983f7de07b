"""Recall at k between images and their captions, as FoMo-in-Flux measures its retrieval sets."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

CHUNK = 1024  # rows of the similarity matrix held at a time


def recall(images: Float[Tensor, "n d"], texts: Float[Tensor, "m d"], owner: Int64[Tensor, " m"], k: int = 5) -> float:
    """Mean of text-to-image and image-to-text recall at `k`, a share from 0 to 1.

    `images` and `texts` are unit vectors; text j describes image ``owner[j]``, and every image has a text. A text
    counts if fewer than k images are more similar to it than its own; an image counts if fewer than k texts are more
    similar to it than the best of its own. Ties count as found.
    """
    text_hits = image_hits = 0
    for rows in torch.arange(len(texts)).split(CHUNK):
        similar = texts[rows] @ images.T
        own = similar.gather(1, owner[rows, None])
        text_hits += int(((similar > own).sum(1) < k).sum())
    for rows in torch.arange(len(images)).split(CHUNK):
        similar = images[rows] @ texts.T
        own = similar.masked_fill(owner != rows[:, None], -torch.inf).amax(1, keepdim=True)
        image_hits += int(((similar > own).sum(1) < k).sum())
    return (text_hits / len(texts) + image_hits / len(images)) / 2
