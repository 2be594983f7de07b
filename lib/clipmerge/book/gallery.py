"""Pictures of pictures: which images of a dataset may stand in committed figures, and how they are laid out.

A committed figure shows openly licensed images only. The rest (solar cells, the emoji of five vendors) may be looked
at by whoever runs a notebook, which is what ``closed=True`` is for.
"""

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from clipmerge.clip import datasets, manifests
from clipmerge.clip.sources import emojis
from clipmerge.errors import BadInput

OPEN_STYLE = "Twtr"  # Twemoji, CC BY 4.0: the one open style among those that test


def showable(name: str) -> Int64[Tensor, " k"]:
    """Indices of the test images of dataset `name` that may be committed in a picture; none for a closed set.

    The emoji sets hold one test image per class and style, class by class and in the order of `emojis.STYLES`.
    """
    manifest = manifests.load(name)
    every = torch.arange(manifest.counts["test"])
    styles = [style for style in emojis.STYLES if style in manifest.options.get("test_styles", ())]
    if not styles:
        return every if manifest.open_licence else every[:0]
    if OPEN_STYLE not in styles or len(every) != len(styles) * len(manifest.classes):
        raise BadInput(f"{name}: expected one {OPEN_STYLE} image per class among its test images, found {styles}")
    return every[styles.index(OPEN_STYLE) :: len(styles)]


def samples(name: str, count: int, closed: bool = False) -> UInt8[Tensor, "n 32 32 3"]:
    """`count` test images of dataset `name` from classes spread evenly over it; none if none may be shown.

    With `closed` any test image may be drawn: for your eyes, not for a committed picture.
    """
    dataset = datasets.load(name)
    allowed = torch.arange(len(dataset.test_labels)) if closed else showable(name)
    labels = dataset.test_labels[allowed]
    classes = len(dataset.classes)
    rounds = count // classes + 1
    chosen = []
    for k in range(count if len(allowed) else 0):
        # more classes than tiles: classes spread evenly, each once; fewer: all of them, again and again
        label = k * classes // count if classes >= count else k % classes
        members = allowed[labels == label]
        chosen.append(members[k // classes * len(members) // rounds])
    return dataset.test_images[torch.tensor(chosen, dtype=torch.int64)]


def sheet(images: UInt8[Tensor, "n side side 3"], columns: int, gap: int = 2) -> UInt8[Tensor, "h w 3"]:
    """The images side by side in rows of `columns`, with white gaps; a last row that is short is filled with white."""
    rows, side = -(-len(images) // columns), images.shape[1]
    cells = torch.full((rows * columns, side + gap, side + gap, 3), 255, dtype=torch.uint8)
    cells[: len(images), :side, :side] = images
    grid = cells.unflatten(0, (rows, columns)).permute(0, 2, 1, 3, 4).flatten(0, 1).flatten(1, 2)
    return grid[: grid.shape[0] - gap, : grid.shape[1] - gap]
