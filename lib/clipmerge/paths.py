"""Where things are: the only module that knows the layout of the repository and of the cache."""

import os
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def manifests() -> Path:
    """Folder of data manifests, committed weights and reported numbers."""
    return REPO / "data_manifests"


def notebooks() -> Path:
    """Folder of the committed notebooks."""
    return REPO / "notebooks"


def figures(profile: str) -> Path:
    """Folder that holds the figures and tables of one profile."""
    return REPO / "figures" / profile


def cache(*parts: str) -> Path:
    """A path inside the cache: ``.cache`` in the repository, or wherever ``CLIPMERGE_HOME`` points."""
    home = os.environ.get("CLIPMERGE_HOME")
    return (Path(home).expanduser() if home else REPO / ".cache").joinpath(*parts)
