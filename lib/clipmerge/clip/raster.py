"""From drawings to pixels: SVG, glyphs and PNG as small RGBA pictures, and pictures as 32×32 arrays."""

import io

import numpy as np
import resvg_py
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

SIZE = 32  # side of every image of the companion, in pixels


def png(data: bytes) -> Image.Image:
    """Decode image bytes to RGBA."""
    return Image.open(io.BytesIO(data)).convert("RGBA")


def svg(text: str, size: int = 64) -> Image.Image:
    """Rasterise an SVG to RGBA of `size` pixels on its longer side; `currentColor` is drawn black."""
    data = resvg_py.svg_to_bytes(svg_string=text.replace("currentColor", "#000"), width=size, height=size)
    return png(bytes(data))


def glyph(character: str, font: ImageFont.FreeTypeFont, size: int = 64) -> Image.Image:
    """Draw one character centred by its ink, black on transparent, 3/4 of `size` high at most."""
    left, top, right, bottom = font.getbbox(character)
    width, height = max(1, right - left), max(1, bottom - top)
    ink = Image.new("L", (width, height), 0)
    ImageDraw.Draw(ink).text((-left, -top), character, font=font, fill=255)
    scale = 0.75 * size / max(width, height)
    ink = ink.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.LANCZOS)
    picture = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    alpha = Image.new("L", (size, size), 0)
    alpha.paste(ink, ((size - ink.width) // 2, (size - ink.height) // 2))
    picture.putalpha(alpha)
    return picture


def padded(image: Image.Image) -> Image.Image:
    """Centre `image` on a transparent square as large as its longer side."""
    side = max(image.size)
    square_ = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square_.paste(image.convert("RGBA"), ((side - image.width) // 2, (side - image.height) // 2))
    return square_


def square(
    image: Image.Image, background: tuple[int, int, int] = (255, 255, 255), size: int = SIZE
) -> UInt8[np.ndarray, "size size 3"]:
    """Pad to a square, put on `background`, and resize (Lanczos) to `size`×`size` RGB."""
    image = padded(image)
    flat = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image).convert("RGB")
    return np.asarray(flat.resize((size, size), Image.LANCZOS))
