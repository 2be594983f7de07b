"""Image files as they are packed: kept as they come if small, else shrunk once; and decoded again."""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from clipmerge.errors import BadInput

SHORT = 256  # pixels; training and evaluation cut 224 out of it
QUALITY = 95
KEPT = ("JPEG", "PNG")


@dataclass(frozen=True)
class Sample:
    """One image on its way into a pack: side (``whole``: not split yet), label, file name, file bytes or pixels."""

    side: str
    label: int
    name: str
    data: bytes | np.ndarray
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Packed:
    """What is stored of a sample, and the sha256 of what came in: that depends on no version of an encoder."""

    sample: Sample
    data: bytes
    digest: bytes


def pack(sample: Sample) -> Packed:
    """Encode one sample: PNG of pixels; a JPEG or PNG file as it is, if its shorter side has at most 256 pixels.

    Anything larger is shrunk to that (bicubic, JPEG of quality 95, no chroma subsampling), so a 224-pixel view is
    resampled twice where CLIP's own evaluation resamples once. Orientation tags are ignored, as torchvision does.
    """
    try:
        if isinstance(sample.data, np.ndarray):
            stored = _encode(Image.fromarray(sample.data), "PNG")
            source = repr(sample.data.shape).encode() + sample.data.tobytes()
        else:
            stored = _shrink(sample.data)
            source = sample.data
    except (OSError, EOFError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{sample.name}: expected a whole image, found {error or 'a damaged one'}") from None
    return Packed(sample, stored, hashlib.sha256(source).digest())


def _shrink(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        if min(image.size) <= SHORT and image.format in KEPT:
            image.load()  # a file cut short must fail here, not in the middle of a training
            return data
        scale = min(1.0, SHORT / min(image.size))
        size = tuple(max(SHORT if scale < 1 else 1, round(scale * side)) for side in image.size)
        return _encode(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), "JPEG")


def _encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": QUALITY, "subsampling": 0} if kind == "JPEG" else {}
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(data: bytes) -> UInt8[Tensor, "h w 3"]:
    """Pixels of one packed image, in RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.array(image.convert("RGB")))
