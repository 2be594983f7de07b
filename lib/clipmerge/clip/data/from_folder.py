"""Images in plain folders, placed by hand: ``train/LABEL/*.jpg`` and ``test/LABEL/*.jpg``, or ``LABEL/*.jpg``."""

from collections.abc import Iterator
from pathlib import Path

from clipmerge.clip.data.external import SIDES, External
from clipmerge.clip.data.images import Sample
from clipmerge.errors import BadInput

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def samples(manifest: External, root: Path) -> Iterator[Sample]:
    """Every image below `root`; a label may be folders in folders, spelling counts in letters and digits only.

    Where the manifest's split is official there must be folders ``train`` and ``test``; where it is seeded, none.
    """
    sides = ("whole",) if manifest.split.seeded else SIDES
    for side in sides:
        top = root if side == "whole" else root / side
        paths = [path for path in top.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
        if not paths:
            raise BadInput(f"{manifest.title}: expected images {top}/LABEL/*.jpg, found none")
        for path in paths:
            label = path.parent.relative_to(top).as_posix()
            yield Sample(side, manifest.number(label), path.name, path.read_bytes())
