"""Images of a set on the Hugging Face hub, at one commit: parquet tables or tars of numbered files (webdataset)."""

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from clipmerge.clip.data.external import External, Source
from clipmerge.clip.data.images import Sample
from clipmerge.errors import BadInput


def pinned(source: Source, known: str | None) -> str:
    """The commit to use: the manifest's, else the one the lock knows, else the newest there is."""
    if source.revision or known:
        return source.revision or known
    from huggingface_hub import HfApi

    return _asked(source, lambda: HfApi().dataset_info(source.repo).sha)


def fetch(source: Source, revision: str) -> Path:
    """The folder of the source's files at a commit, in the hub's own cache; what is there is not fetched again."""
    from huggingface_hub import snapshot_download

    options = {"repo_type": "dataset", "revision": revision, "allow_patterns": list(source.sides.values())}
    return Path(_asked(source, lambda: snapshot_download(source.repo, **options)))


def _asked(source: Source, ask: Callable[[], str]) -> str:
    """The hub's answer; whatever goes wrong on the way is one sentence (its errors differ between its versions)."""
    try:
        return ask()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{source}: expected the hub to answer, found {reason!r}") from None


def found(source: Source, root: Path) -> bool:
    """Do files of every part lie in `root`?"""
    return all(any(root.glob(pattern)) for pattern in source.sides.values())


def samples(source: Source, manifest: External, root: Path) -> Iterator[Sample]:
    """Every image of every part, under the manifest's label numbers, file by file in the order of their names."""
    read = {"parquet": _table, "tar": _tar}[source.kind]
    for side, pattern in source.sides.items():
        paths = sorted(root.glob(pattern))
        if not paths:
            raise BadInput(f"{source}: expected files {pattern} in {root}, found none")
        for path in paths:
            for label, name, data in read(source, manifest, path):
                yield Sample(side, label, name, data)


def _table(source: Source, manifest: External, path: Path) -> Iterator[tuple[int, str, bytes]]:
    """Rows of one parquet file; labels are words, or numbers of the names that the file's header lists."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise BadInput(f"{path}: expected pyarrow to read it, found none; install clipmerge[paper]") from None
    file = pyarrow.parquet.ParquetFile(path)
    missing = {source.image, source.label} - set(file.schema_arrow.names)
    if missing:
        raise BadInput(f"{path}: expected a column {missing.pop()!r}, found {file.schema_arrow.names}")
    features = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    names = features.get("info", {}).get("features", {}).get(source.label, {}).get("names")
    row = 0
    for batch in file.iter_batches(batch_size=64, columns=[source.image, source.label]):
        for image, label in zip(*(batch.column(c).to_pylist() for c in (source.image, source.label)), strict=True):
            word = names[label] if names and isinstance(label, int) else label
            name = PurePosixPath(image["path"] or f"{path.stem}-{row:08d}").name
            yield _number(source, manifest, word, path), name, image["bytes"]
            row += 1


def _tar(source: Source, manifest: External, path: Path) -> Iterator[tuple[int, str, bytes]]:
    """Pairs of one tar: ``key.cls`` with the label's number or name, and ``key.jpg`` (or png, webp)."""
    waiting: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(path) as file:
            for member in file:
                if not member.isfile():
                    continue
                name = PurePosixPath(member.name).name
                key, _, suffix = name.partition(".")
                pair = waiting.setdefault(key, {})
                pair["cls" if suffix == "cls" else "image"] = file.extractfile(member).read()
                if len(pair) == 2:
                    label = waiting.pop(key)["cls"].decode().strip()
                    word = int(label) if label.isdigit() else label
                    yield _number(source, manifest, word, path), f"{path.stem}-{key}", pair["image"]
    except tarfile.TarError as error:
        raise BadInput(f"{path}: expected a whole tar, found a damaged one ({error})") from None
    if waiting:
        raise BadInput(f"{path}: expected an image and a label for every key, found one of them for {min(waiting)}")


def _number(source: Source, manifest: External, label: int | str, path: Path) -> int:
    if isinstance(label, str):
        return manifest.number(label[source.skip :])
    if not 0 <= label < len(manifest.classes):
        raise BadInput(f"{path}: expected labels from 0 to {len(manifest.classes) - 1}, found {label}")
    return label
