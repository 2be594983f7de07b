"""Views are squares of the images, cut where a generator or the middle says."""

import pytest
import torch
import torchvision.transforms.functional as V
from hypothesis import given
from hypothesis import strategies as st

from clipmerge.clip.data import views

SIZES = [(30, 50), (40, 21), (25, 25)]


def noise(height: int, width: int) -> torch.Tensor:
    smooth = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(height))
    return (V.resize(smooth, [height, width], antialias=True).clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0)


@pytest.mark.parametrize("size", [16, 25, 40])
def test_the_middle_view_is_torchvisions(size: int) -> None:
    images = [noise(*shape) for shape in SIZES]
    views_of = views.middle(images, size)
    for image, view in zip(images, views_of, strict=True):
        whole = V.resize(image.permute(2, 0, 1), size, V.InterpolationMode.BICUBIC, antialias=True)
        assert torch.equal(view, V.center_crop(whole, [size, size]))


def test_a_cut_is_torchvisions_resized_crop() -> None:
    images = [noise(*shape) for shape in SIZES]
    boxes = torch.tensor([[0, 10, 30, 20], [5, 1, 12, 20], [24, 24, 1, 1]])
    for image, box, view in zip(images, boxes.tolist(), views.cut(images, boxes, 14), strict=True):
        crop = V.resized_crop(image.permute(2, 0, 1), *box, [14, 14], V.InterpolationMode.BICUBIC, antialias=True)
        assert torch.equal(view, crop)


@given(seed=st.integers(0, 2**32), scale=st.floats(0.05, 1))
def test_boxes_lie_inside_and_hold_their_share(seed: int, scale: float) -> None:
    images = [torch.zeros(h, w, 3, dtype=torch.uint8) for h, w in SIZES]
    generator = torch.Generator().manual_seed(seed)
    boxes = views.anywhere(images, scale, generator)
    again = views.anywhere(images, scale, torch.Generator().manual_seed(seed))
    assert torch.equal(boxes, again)
    for (top, left, height, width), (h, w) in zip(boxes.tolist(), SIZES, strict=True):
        assert min(top, left) >= 0
        assert height > 0 and top + height <= h
        assert width > 0 and left + width <= w
