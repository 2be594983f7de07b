"""The real data sets: what ``data_manifests/external`` says of their sources, splits, class names and templates."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from clipmerge import paths
from clipmerge.clip.data import yamls
from clipmerge.errors import BadInput

SIDES = ("train", "test")
FOLDER = paths.manifests() / "external"


@dataclass(frozen=True)
class Source:
    """One place a set can come from.

    `sides` maps ``train`` and ``test`` (or ``whole``, where a seeded rule splits) to what the kind needs: arguments of
    the torchvision class, or a pattern of files. `skip` counts characters in front of every label that are not part of
    it. A hub source without a `revision` is pinned when it is first used, and the lock keeps the commit.
    """

    kind: str
    sides: Mapping[str, object]
    dataset: str = ""
    folder: str = ""
    download: bool = True
    repo: str = ""
    revision: str | None = None
    image: str = "image"
    label: str = "label"
    skip: int = 0

    def __str__(self) -> str:
        return f"torchvision {self.dataset}" if self.kind == "torchvision" else f"hub {self.repo} ({self.kind})"


@dataclass(frozen=True)
class Split:
    """``official``: the source says which side; ``zscl`` and ``ours``: the head of a permutation of the sorted images.

    ``zscl`` is the split of ZSCL's code, ``ours`` its rule where its own order is lost. `digest` is the sha256 of the
    test positions in sorted order: it fails where a library's permutation has changed.
    """

    rule: str
    note: str
    train: float = 1.0
    seed: int = 0
    digest: str = ""

    @property
    def seeded(self) -> bool:
        """Is it drawn here, from a seed?"""
        return self.rule != "official"


@dataclass(frozen=True)
class External:
    """One real data set; `classes` maps the source's labels to the names that enter the templates, in label order."""

    name: str
    title: str
    licence: str
    citation: str
    homepage: str
    mb: int
    counts: Mapping[str, int]
    split: Split
    sources: tuple[Source, ...]
    templates: tuple[str, ...]
    classes: Mapping[str, str]
    verified: tuple[str, ...]
    unverified: tuple[str, ...] = ()
    labels: Mapping[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        numbers = {plain(label): i for i, label in enumerate(self.classes)}
        if len(numbers) < len(self.classes):
            raise BadInput(f"{self.name}.yaml: expected labels that differ in letters or digits, found two alike")
        object.__setattr__(self, "labels", numbers)

    def number(self, label: str) -> int:
        """The label's place among the classes; spelling counts in letters and digits only (``C/V`` is ``C-V``)."""
        if plain(label) not in self.labels:
            raise BadInput(f"{self.title}: expected one of the manifest's {len(self.classes)} labels, found {label!r}")
        return self.labels[plain(label)]


def plain(label: str) -> str:
    """A label's letters and digits in lower case: sources differ in blanks, underscores and slashes."""
    return re.sub(r"[^0-9a-z]", "", label.lower())


@functools.cache
def load(name: str) -> External:
    """The manifest ``data_manifests/external/<name>.yaml``; a name is asked for as it is written there or titled."""
    name = plain(name)
    if name not in names():
        raise BadInput(f"data set {name!r}: expected one of {', '.join(names())}")
    entry = yamls.read(FOLDER / f"{name}.yaml", "external.schema.json")
    if entry["name"] != name:
        raise BadInput(f"{name}.yaml: expected name {name!r}, found {entry['name']!r}")
    lists = {key: tuple(entry.get(key, ())) for key in ("templates", "verified", "unverified")}
    sources = tuple(Source(**source) for source in entry["sources"])
    return External(**entry | lists | {"sources": sources, "split": Split(**entry["split"])})


@functools.cache
def names() -> tuple[str, ...]:
    """The eleven sets of MTIL in Order I, which is alphabetical (arXiv 2303.06628, section 5.1)."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "fomo"))
