"""Making MTIL's packs: from the first source that answers, or from files placed by hand; split, counted, locked."""

import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from clipmerge import paths
from clipmerge.clip.data import external, from_folder, from_hub, locks, packing, splits
from clipmerge.clip.data.external import External, Source
from clipmerge.clip.data.images import Sample
from clipmerge.clip.data.packing import Row
from clipmerge.errors import BadInput


def get(name: str) -> dict:
    """Make the pack of a set from the first of its sources that answers; what is there already stays."""
    manifest = external.load(name)
    if locks.ready(manifest.name):
        return locks.lock(manifest.name)
    reasons = []
    for source in manifest.sources:
        if not source.download:
            continue
        try:
            return _from(manifest, source)
        except BadInput as error:
            reasons.append(str(error))
    by_hand = f"place it by hand and run `clipmerge data place {manifest.name} FOLDER`, {layouts(manifest)}"
    raise BadInput(f"{manifest.title}: {'; '.join(reasons)}; or {by_hand}")


def place(name: str, root: Path) -> dict:
    """Make the pack of a set from files placed by hand in `root`, in any layout that its sources or folders have."""
    manifest = external.load(name)
    if not root.is_dir():
        raise BadInput(f"{root}: expected a folder with {manifest.title}, found none")
    if locks.ready(manifest.name):
        return locks.lock(manifest.name)
    for source in manifest.sources:
        if source.kind == "torchvision" and (root / source.folder).is_dir():
            from clipmerge.clip.data import from_torchvision  # takes seconds to import

            return keep(manifest, str(source), None, from_torchvision.samples(source, manifest, root))
        if source.kind != "torchvision" and from_hub.found(source, root):
            return keep(manifest, str(source), None, from_hub.samples(source, manifest, root))
    try:
        return keep(manifest, "folders", None, from_folder.samples(manifest, root))
    except BadInput as error:
        raise BadInput(f"{error} ({layouts(manifest)})") from None


def layouts(manifest: External) -> str:
    """The layouts that `place` knows for a set, in words."""
    plain = "train/LABEL/*.jpg and test/LABEL/*.jpg" if not manifest.split.seeded else "LABEL/*.jpg"
    kinds = [
        f"{one.folder}/ as torchvision lays it out" if one.kind == "torchvision" else " and ".join(one.sides.values())
        for one in manifest.sources
    ]
    return f"FOLDER holding {', or '.join([*kinds, plain])}"


def _from(manifest: External, source: Source) -> dict:
    if source.kind == "torchvision":
        from clipmerge.clip.data import from_torchvision

        _room(manifest, 2.5)  # archive, files, pack
        root = from_torchvision.fetch(source, paths.cache("external", "downloads", manifest.name))
        made = keep(manifest, str(source), None, from_torchvision.samples(source, manifest, root))
        shutil.rmtree(root)  # the pack holds the images now
        return made
    _room(manifest, 1.5)
    known = locks.lock(manifest.name) or {}
    revision = from_hub.pinned(source, known.get("revision") if known.get("source") == str(source) else None)
    root = from_hub.fetch(source, revision)
    return keep(manifest, str(source), revision, from_hub.samples(source, manifest, root))


def _room(manifest: External, times: float) -> None:
    """Refuse to begin where the disk does not hold so many times the download."""
    where = paths.cache("external")
    where.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(where).free / 1e6
    if free < times * manifest.mb:
        raise BadInput(f"{where}: expected {times * manifest.mb:.0f} MB free for {manifest.title}, found {free:.0f} MB")


def keep(manifest: External, source: str, revision: str | None, samples: Iterable[Sample]) -> dict:
    """Pack one of MTIL's sets: split as the manifest says, counts and classes enforced."""
    meta = {"name": manifest.name, "source": source, "revision": revision}
    return locks.pack(meta, samples, sum(manifest.counts.values()), partial(arrange, manifest))


def arrange(manifest: External, rows: list[Row]) -> list[Row]:
    """Rows with their sides: those the source gave, or the seeded rule over rows sorted by label and file name."""
    if manifest.split.seeded:
        rows = sorted(rows, key=lambda row: (row.label, row.name))
        total = sum(manifest.counts.values())
        if len(rows) != total:
            raise BadInput(f"{manifest.title}: expected {total} images, found {len(rows)}")
        twins = [row.name for row, other in zip(rows, rows[1:], strict=False) if row[1:3] == other[1:3]]
        if twins:
            raise BadInput(f"{manifest.title}: expected one image {twins[0]} in its class, found two")
        test = set(splits.seeded(manifest.split, len(rows), manifest.title)[1].tolist())
        rows = [row._replace(side="test" if i in test else "train") for i, row in enumerate(rows)]
    packing.check_counts(manifest.title, rows, manifest.counts, len(manifest.classes))
    return rows
