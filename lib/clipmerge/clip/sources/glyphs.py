"""Written characters: Kanji (KanjiVG strokes), Scripts (Noto fonts) and Letters (handwriting of miniworld)."""

import io
import random
import re
import unicodedata
from collections.abc import Iterator

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageFont

from clipmerge.clip import manifests, raster
from clipmerge.clip.manifests import Manifest
from clipmerge.clip.sources import Decoded

RADICAL = re.compile(r'<g [^>]*kvg:element="([^"]+)"[^>]*kvg:radical="(?:general|tradit)"')
STROKE_NUMBERS = re.compile(r'<g id="kvg:StrokeNumbers.*?</g>', re.DOTALL)


def _kanji_by_radical() -> dict[str, list[str]]:
    """SVG texts of the CJK unified ideographs with exactly one radical, by that radical, in code-point order."""
    wheel, found = manifests.wheel("kanjivg"), {}
    for member in manifests.members(wheel, "kanji/?????.svg"):
        if 0x4E00 <= int(member[6:11], 16) <= 0x9FFF:
            text = manifests.read(wheel, member).decode()
            radicals = set(RADICAL.findall(text))
            if len(radicals) == 1:
                found.setdefault(radicals.pop(), []).append(text)
    return found


def _draw_kanji(text: str) -> np.ndarray:
    """The strokes alone, thick enough to survive 32 pixels."""
    text = STROKE_NUMBERS.sub("", text[text.index("<svg") :])
    return raster.square(raster.svg(re.sub(r"stroke-width:\d+", "stroke-width:5", text), 64))


def kanji(manifest: Manifest) -> Decoded:
    """Characters by radical; a quarter of the characters of every radical test."""
    options, rng = manifest.options, random.Random(0)
    by_radical = _kanji_by_radical()
    decoded = Decoded(tuple(options["radicals"]))
    for label, radical in enumerate(options["radicals"].values()):
        drawings = by_radical[radical]
        rng.shuffle(drawings)
        drawings = drawings[: options["per_class"]]
        for i, text in enumerate(drawings):
            decoded.side(i < options["test_fraction"] * len(drawings)).append((_draw_kanji(text), label))
    return decoded


def _alphabet(font: bytes, ranges: list[list[int]]) -> list[str]:
    """The letters of the code-point ranges (ends included) that the font can draw."""
    cmap = TTFont(io.BytesIO(font)).getBestCmap()
    points = (point for first, last in ranges for point in range(first, last + 1) if point in cmap)
    return [chr(point) for point in points if unicodedata.category(chr(point)).startswith("L")]


def _faces(font: bytes, weights: list[int]) -> list[ImageFont.FreeTypeFont]:
    """The variable font at several weights; the basic layout engine draws the same on every platform."""
    faces = [ImageFont.truetype(io.BytesIO(font), 44, layout_engine=ImageFont.Layout.BASIC) for _ in weights]
    for face, weight in zip(faces, weights, strict=True):
        face.set_variation_by_axes([weight])
    return faces


def scripts(manifest: Manifest) -> Decoded:
    """Letters of writing systems; letters that two systems draw alike (Latin A, Greek Alpha) are left out."""
    options, rng, wheel = manifest.options, random.Random(0), manifests.wheel("manimgx-fonts")
    drawn, makers = {}, {}
    for name, system in options["systems"].items():
        font = manifests.read(wheel, f"manimgx_fonts/{system['font']}[wght].ttf")
        faces = _faces(font, options["weights"])
        for letter in _alphabet(font, system["ranges"]):
            images = [raster.square(raster.glyph(letter, face)) for face in faces]
            drawn.setdefault(name, {})[images[0].tobytes()] = images  # within a system a shape counts once
            makers.setdefault(images[0].tobytes(), set()).add(name)
    decoded = Decoded(tuple(options["systems"]))
    for label, name in enumerate(decoded.classes):
        letters = [images for shape, images in drawn[name].items() if len(makers[shape]) == 1]
        rng.shuffle(letters)
        letters = letters[: options["per_class"]]
        testing = max(6, len(letters) // 4)
        for i, images in enumerate(letters):
            decoded.side(i < testing).extend((image, label) for image in images)
    return decoded


def _handwriting(samples: int) -> Iterator[tuple[int, int, Image.Image]]:
    """(letter 0…25, sample number from 1, picture) of upper and lower case."""
    wheel = manifests.wheel("miniworld")
    for letter in range(26):
        for case in (0x41, 0x61):
            for sample in range(1, samples + 1):
                # the file names say 0x but count in decimal
                member = f"miniworld/textures/chars/ch_0x{case + letter}_{sample}.png"
                yield letter, sample, Image.open(io.BytesIO(manifests.read(wheel, member))).convert("L")


def letters(manifest: Manifest) -> Decoded:
    """Handwritten letters, cropped to their ink with a margin; the last samples of every letter and case test."""
    decoded = Decoded(tuple(chr(0x41 + i) for i in range(26)))
    for letter, sample, picture in _handwriting(manifest.options["samples"]):
        ink = 255 - np.asarray(picture)
        rows, columns = np.nonzero(ink > 40)
        box = picture.crop((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        side = int(1.2 * max(box.size))
        page = Image.new("L", (side, side), 255)
        page.paste(box, ((side - box.width) // 2, (side - box.height) // 2))
        decoded.side(sample > manifest.options["train_samples"]).append((raster.square(page), letter))
    return decoded
