"""Square views of packed images, cut and resized on the device that uses them."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Int64, UInt8
from torch import Tensor


def cut(
    images: Sequence[UInt8[Tensor, "_ _ 3"]], boxes: Int64[Tensor, "n 4"], size: int, device: torch.device | str = "cpu"
) -> UInt8[Tensor, "n 3 size size"]:
    """The boxes (top, left, height, width in pixels) of n images, each resized to `size` (bicubic, antialiased)."""
    views = []
    for image, (top, left, height, width) in zip(images, boxes.tolist(), strict=True):
        views.append(_resized(image[top : top + height, left : left + width].to(device), (size, size)))
    return torch.cat(views)


def middle(
    images: Sequence[UInt8[Tensor, "_ _ 3"]], size: int, device: torch.device | str = "cpu"
) -> UInt8[Tensor, "n 3 size size"]:
    """CLIP's evaluation view: the shorter side resized to `size`, the square in the middle."""
    views = []
    for image in images:
        short = min(image.shape[:2])
        height, width = (size * side // short for side in image.shape[:2])
        whole = _resized(image.to(device), (height, width))
        top, left = (round((side - size) / 2) for side in (height, width))
        views.append(whole[..., top : top + size, left : left + size])
    return torch.cat(views)


def _resized(image: UInt8[Tensor, "h w 3"], shape: tuple[int, int]) -> UInt8[Tensor, "1 3 h2 w2"]:
    pixels = image.permute(2, 0, 1)[None].float()
    return F.interpolate(pixels, shape, mode="bicubic", antialias=True).clamp(0, 255).round().to(torch.uint8)


def anywhere(
    images: Sequence[UInt8[Tensor, "_ _ 3"]], scale_min: float, generator: torch.Generator
) -> Int64[Tensor, "n 4"]:
    """RandomResizedCrop: an area share in [scale_min, 1], sides 3:4 to 4:3, anywhere; too long a side is cut short.

    torchvision draws again instead where a side is too long. All draws come from `generator`.
    """
    shapes = torch.tensor([image.shape[:2] for image in images])
    area, ratio, *place = torch.rand(4, len(images), generator=generator)
    area = (scale_min + (1 - scale_min) * area) * shapes.prod(1)
    stretch = torch.exp((2 * ratio - 1) * math.log(4 / 3) / 2)
    root = area.sqrt()
    sides = torch.stack([root / stretch, root * stretch], 1).round().long().clamp(min=1).minimum(shapes)
    corners = (torch.stack(place, 1) * (shapes - sides + 1)).long()
    return torch.cat([corners, sides], 1)
