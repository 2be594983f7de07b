"""Weights that open_clip fetches: their digests, kept in the cache, are part of the keys of steps.

The lock of some weights says which file this cache has met under their name. It is written when they are first here and
travels with a cache folder that machines share, so that a plan knows keys without reading gigabytes again.
"""

from pathlib import Path

import open_clip
from huggingface_hub import try_to_load_from_cache

from clipmerge import files, paths
from clipmerge.errors import BadInput

FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # as open_clip looks for them


def lock(spec: str) -> Path | None:
    """The lock of the weights of `spec` (``ViT-B-16-quickgelu/openai``); None if they were never here."""
    path = paths.cache("weights", f"{spec.replace('/', '+')}.json")
    found = None if path.exists() else here(spec)
    if found:
        files.write_json(path, {"weights": spec, "bytes": found.stat().st_size, "sha256": files.sha256(found)})
    return path if path.exists() else None


def fetch(spec: str) -> Path:
    """The lock of the weights of `spec`, which are fetched if they were never here."""
    known = lock(spec)
    if known:
        return known
    try:
        open_clip.download_pretrained(_config(spec))
    except Exception as error:  # whatever a download may raise
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise BadInput(f"model {spec!r}: expected its weights here or on a hub, found {said}") from None
    known = lock(spec)
    if not known:
        raise BadInput(f"model {spec!r}: expected weights that open_clip keeps on a hub, found other ones")
    return known


def here(spec: str) -> Path | None:
    """The file of some weights, if it is on this machine."""
    repository = _config(spec).get("hf_hub", "").rstrip("/")
    found = (try_to_load_from_cache(repository, file) for file in FILES) if repository else ()
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _config(spec: str) -> dict:
    name, _, tag = spec.partition("/")
    known = open_clip.get_pretrained_cfg(name, tag)
    if not known:
        raise BadInput(f"model {spec!r}: expected architecture and weights of open_clip.list_pretrained()")
    return known
