"""Training images made of pool pictures: colour, background, geometry and noise, drawn anew for every batch.

All functions work on batches in [0, 1], draw from an explicit generator, and keep the shape they are given.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from clipmerge.clip.pool import Pool
from clipmerge.clip.raster import SIZE

GLYPHS = ("letter", "digit")


def uniform(shape: Sequence[int], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform draws in [low, high)."""
    return torch.rand(*shape, generator=generator) * (high - low) + low


def ink_and_paper(n: int, generator: torch.Generator) -> tuple[Float[Tensor, "n 3 1 1"], Float[Tensor, "n 3 1 1"]]:
    """A drawing and a background colour per image: 35 % black on white, 20 % white on black, else any that contrast."""
    ink, paper = torch.rand(2, n, 3, generator=generator)
    luma = torch.tensor([0.299, 0.587, 0.114])
    weak = ((ink - paper) @ luma).abs() < 0.35
    paper[weak] = ((ink[weak] @ luma) < 0.5).float()[:, None].expand(-1, 3)
    style = torch.rand(n, generator=generator)
    ink[style < 0.35], paper[style < 0.35] = 0.0, 1.0
    reverse = (style >= 0.35) & (style < 0.55)
    ink[reverse], paper[reverse] = 1.0, 0.0
    return ink[..., None, None], paper[..., None, None]


def plain_paper(n: int, generator: torch.Generator) -> Float[Tensor, "n 3 1 1"]:
    """A background for coloured pictures: white for most, any colour for the others."""
    paper = torch.rand(n, 3, generator=generator)
    paper[torch.rand(n, generator=generator) < 0.65] = 1.0
    return paper[..., None, None]


def stroke(alpha: Float[Tensor, "n 1 h w"], share: float, generator: torch.Generator) -> Float[Tensor, "n 1 h w"]:
    """Make the strokes of a share of the drawings thicker or thinner by about a pixel."""
    strength = uniform((len(alpha), 1, 1, 1), 0.3, 1.0, generator)
    dice = torch.rand(len(alpha), 1, 1, 1, generator=generator)
    thick, thin = F.max_pool2d(alpha, 3, 1, 1), -F.max_pool2d(-alpha, 3, 1, 1)
    other = torch.where(dice < share * 0.6, thick, thin)
    return torch.where(dice < share, torch.lerp(alpha, other, strength), alpha)


def warp(
    layers: Float[Tensor, "n c h w"], bend: Float[Tensor, " n"], generator: torch.Generator
) -> Float[Tensor, "n c size size"]:
    """Random scale, rotation, shear, shift and a smooth bend (in image widths), resampled to 32×32."""
    n = len(layers)
    angle = uniform((n,), -0.2, 0.2, generator) * (1 + 8 * bend)
    scale = uniform((n, 2), -0.08, 0.08, generator) + uniform((n, 1), 0.85, 1.35, generator)
    shear, shift = uniform((n,), -0.15, 0.15, generator), uniform((n, 2), -0.12, 0.12, generator)
    cos, sin = torch.cos(angle) * scale[:, 0], torch.sin(angle) * scale[:, 1]
    matrix = torch.stack([torch.stack([cos, shear - sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(matrix, [n, 1, SIZE, SIZE], align_corners=False)
    knots = uniform((n, 2, 4, 4), -1.0, 1.0, generator) * bend[:, None, None, None]
    field = F.interpolate(knots, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
    return F.grid_sample(layers, grid + field.permute(0, 2, 3, 1), align_corners=False)


def finish(image: Float[Tensor, "n 3 h w"], generator: torch.Generator) -> Float[Tensor, "n 3 h w"]:
    """Small changes of brightness, contrast and saturation, some blur, some noise."""
    n = len(image)
    grey = image.mean(1, keepdim=True)
    image = torch.lerp(grey, image, uniform((n, 1, 1, 1), 0.6, 1.3, generator))
    image = image * uniform((n, 1, 1, 1), 0.8, 1.2, generator) + uniform((n, 1, 1, 1), -0.08, 0.08, generator)
    blurred = F.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    image = torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.2, blurred, image)
    noise = torch.randn(image.shape, generator=generator) * uniform((n, 1, 1, 1), 0.0, 0.04, generator)
    return (image + noise).clamp(0, 1)


def images(
    pool: Pool, index: Int64[Tensor, " n"], kinds: Sequence[str], generator: torch.Generator
) -> UInt8[Tensor, "n 3 size size"]:
    """One training image per pool index; `kinds` says how each is drawn (a silhouette hides its colours)."""
    alpha = pool.alpha[index, None].float() / 255
    is_glyph = torch.tensor([kind in GLYPHS for kind in kinds])
    coloured = (pool.colour[index] >= 0) & torch.tensor([kind != "silhouette" for kind in kinds])
    alpha = torch.where(coloured[:, None, None, None], alpha, stroke(alpha, 0.35, generator))
    ink, paper = ink_and_paper(len(index), generator)
    colour = ink.expand(-1, -1, *alpha.shape[-2:]).clone()
    colour[coloured] = pool.rgb[pool.colour[index[coloured]]].permute(0, 3, 1, 2).float() / 255
    paper[coloured] = plain_paper(int(coloured.sum()), generator)
    bend = torch.where(is_glyph, 0.09, 0.03) * uniform((len(index),), 0.0, 1.0, generator)
    # opacity times colour is what may be interpolated; colour alone would bleed in from transparent pixels
    layers = warp(torch.cat([colour * alpha, alpha], 1), bend, generator)
    flat = layers[:, :3] + (1 - layers[:, 3:]) * paper
    return (finish(flat, generator) * 255).round().to(torch.uint8)


def jitter(
    images: UInt8[Tensor, "n size size 3"], mirrors: Bool[Tensor, " n"], generator: torch.Generator
) -> UInt8[Tensor, "n 3 size size"]:
    """Photographs and scans as slightly different ones: shift, scale, a small rotation, brightness and contrast.

    Half of the images that `mirrors` allows are mirrored. What comes in from outside repeats the border.
    """
    n = len(images)
    angle = uniform((n,), -0.12, 0.12, generator)
    scale = uniform((n, 2), -0.05, 0.05, generator) + uniform((n, 1), 0.85, 1.1, generator)
    shift = uniform((n, 2), -0.08, 0.08, generator)
    side = torch.where(mirrors & (torch.rand(n, generator=generator) < 0.5), -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [[cos * scale[:, 0] * side, -sin * scale[:, 1], shift[:, 0]]]
    rows += [[sin * scale[:, 0] * side, cos * scale[:, 1], shift[:, 1]]]
    grid = F.affine_grid(torch.stack([torch.stack(row, 1) for row in rows], 1), [n, 1, SIZE, SIZE], align_corners=False)
    image = images.permute(0, 3, 1, 2).float() / 255
    image = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    image = image * uniform((n, 1, 1, 1), 0.85, 1.15, generator) + uniform((n, 1, 1, 1), -0.06, 0.06, generator)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)
