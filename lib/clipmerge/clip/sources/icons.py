"""Icons: SVG pictograms of seven families, named by their files; the Icons task and the held-out Lucide set."""

import io
import random
import re
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from clipmerge.clip import manifests, raster
from clipmerge.clip.manifests import Manifest
from clipmerge.clip.sources import Decoded

# family: package; where its drawings lie (a pattern of members, or a zip inside the wheel); style or size in the name
FAMILIES = {
    "material": ("mkdocs-material", "material/templates/.icons/material/*.svg", "-outline"),
    "fontawesome": ("mkdocs-material", "material/templates/.icons/fontawesome/[rs]*/*.svg", ""),  # regular and solid
    "octicons": ("mkdocs-material", "material/templates/.icons/octicons/*.svg", "(-fill|-filled)?-[0-9]+"),
    "tabler": ("pytablericons", "pytablericons/icons/*.svg", "-filled"),
    "phosphor": ("justmyresource-phosphor", "justmyresource_phosphor/icons.zip", "-(bold|duotone|fill|light|thin)"),
    "material-icons": ("justmyresource-material-icons", "justmyresource_material_icons/icons.zip", ""),
    "lucide": ("justmyresource-lucide", "justmyresource_lucide/icons.zip", ""),
}
COLOURS = ((0, 0, 0), (30, 60, 140), (140, 30, 30), (20, 110, 60), (90, 40, 120), (200, 90, 20))


@dataclass(frozen=True)
class Icon:
    """One drawing: its family, its name without size and style, its SVG text, its file's name."""

    family: str
    name: str
    svg: str
    stem: str

    def among(self, listed: Collection[str]) -> bool:
        """Whether a manifest lists this drawing as ``family/file name``."""
        return f"{self.family}/{self.stem}" in listed


def family(name: str) -> Iterator[Icon]:
    """All drawings of a family, in the order of their paths."""
    package, where, style = FAMILIES[name]
    wheel = manifests.wheel(package)
    if where.endswith(".zip"):
        archive = zipfile.ZipFile(io.BytesIO(manifests.read(wheel, where)))
        paths, read = sorted(path for path in archive.namelist() if path.endswith(".svg")), archive.read
    else:
        paths, read = manifests.members(wheel, where), lambda path: manifests.read(wheel, path)
    for path in paths:
        stem = path.rsplit("/", 1)[-1].removesuffix(".svg")
        yield Icon(name, re.sub(f"{style}$", "", stem), read(path).decode(), stem)


def paint(svg: str, colour: tuple[int, int, int]) -> np.ndarray:
    """The drawing's opacity in one colour on white, 32×32×3."""
    alpha = raster.svg(svg).getchannel("A")
    painted = Image.new("RGBA", alpha.size, (*colour, 0))
    painted.putalpha(alpha)
    return raster.square(painted)


def concepts(manifest: Manifest) -> Decoded:
    """Concepts drawn by every family under several names; the families make the split."""
    options, rng, seen = manifest.options, random.Random(0), set()
    labels = {stem: i for i, stems in enumerate(options["concepts"].values()) for stem in stems}
    decoded = Decoded(tuple(options["concepts"]))
    for family_name in (*options["test"], *options["train"]):  # of equal drawings the test side keeps its own
        for icon in family(family_name):
            if icon.name not in labels or f"{icon.family}/{icon.name}" in options["except"]:
                continue
            black = paint(icon.svg, (0, 0, 0)).tobytes()
            if black not in seen:
                seen.add(black)
                picture = paint(icon.svg, rng.choice(COLOURS))
                if not icon.among(options["in_pool"]):
                    decoded.side(icon.family in options["test"]).append((picture, labels[icon.name]))
    return decoded


def lucide(manifest: Manifest) -> Decoded:
    """Lucide icons with a name of one or two words by which enough families of the pretraining pool know them too."""
    options = manifest.options
    known = [{icon.name for icon in family(name)} for name in options["known_in"]]
    taken = {stem for stems in manifests.load("icons").options["concepts"].values() for stem in stems}
    drawings = {}
    for icon in family("lucide"):
        plain = re.fullmatch("[a-z]{3,}(-[a-z]{3,})?", icon.name)
        fresh = icon.name not in taken and not icon.among(options["in_pool"])
        if plain and fresh and sum(icon.name in names for names in known) >= options["least"]:
            drawings[icon.name.replace("-", " ")] = icon.svg
    decoded = Decoded(tuple(drawings))
    decoded.test.extend((paint(svg, (0, 0, 0)), label) for label, svg in enumerate(drawings.values()))
    return decoded
