"""From what somebody types to a model that can be read: a file, a folder, a repository of a hub, an open_clip tag."""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from clipmerge.clip.hub import architecture
from clipmerge.clip.hub.views import View, as_open_clip, completed, plain
from clipmerge.errors import BadInput
from clipmerge.merge.safefile import header
from clipmerge.merge.sources import Source

INDEX = "model.safetensors.index.json"
# open_clip's own first: what lies beside them is the same model for transformers, or its vision tower alone for timm.
WHOLE = ("open_clip_model.safetensors", "model.safetensors")
CONFIGS = ("open_clip_config.json", "config.json")
Say = Callable[[str], None]


def opened(base: str | Source, experts: Sequence[str], say: Say = lambda line: None) -> tuple[View, list[View]]:
    """A base and experts in open_clip's names, opened but not read.

    A reference is a safetensors file, a shard index, a folder (`local-dir:` may stand before it),
    `hf:owner/name@revision` or `open_clip:ARCHITECTURE/TAG`. A tower or projection that an expert lacks is the base's,
    which `say` is told. Raises BadInput where there is no such model, or where activations differ.
    """
    theta = _view(base, say) if isinstance(base, str) else base
    tuned = []
    for reference in experts:
        view = _view(reference, say)
        ours, theirs = (v.meta.get("architecture", {}).get("quick_gelu") for v in (theta, view))
        if None not in (ours, theirs) and ours != theirs:
            found = ["GELU", "QuickGELU"][theirs]
            raise BadInput(f"{reference}: expected the base's activation, {['GELU', 'QuickGELU'][ours]}, found {found}")
        view, lent = completed(view, theta)
        if lent:
            say(f"{view.label} has no {', no '.join(lent)}: the base's is taken")
        tuned.append(view)
    return theta, tuned


def _view(reference: str, say: Say) -> View:
    kind, _, rest = reference.partition(":")
    if kind == "hf":
        folder, name = _repository(rest, say), rest.partition("@")[0].rpartition("/")[2]
        return _folder(folder, reference, name)
    if kind == "open_clip":
        return _tag(rest, reference, say)
    path = Path(rest if kind == "local-dir" else reference)
    if path.is_dir():
        return _folder(path, path.name or str(path), path.resolve().name)
    if path.name.endswith(".index.json"):
        return _folder(path.parent, path.parent.name or reference, path.resolve().parent.name, path)
    file = header(path)
    return as_open_clip(plain([file], file.label, file.name, path))


def _folder(folder: Path, label: str, name: str, index: Path | None = None) -> View:
    if (folder / "triggers.json").exists():
        raise BadInput(f"{label}: expected a model, found a unified one (see clipmerge decouple)")
    index = index or folder / INDEX
    named = [folder / file for file in WHOLE if (folder / file).exists()]
    single = named[:1] or sorted(folder.glob("*.safetensors"))
    if index.exists():
        files = _shards(index)
    elif len(single) == 1:
        files = single
    else:
        found = f"{len(single)} of them" if single else "a pickle only" if list(folder.glob("*.bin")) else "none"
        raise BadInput(f"{label}: expected one safetensors file or {INDEX} in it, found {found}")
    config = next((folder / file for file in CONFIGS if (folder / file).exists()), None)
    made = architecture.of(_json(config), label) if config else {}
    headers = [header(file) for file in files]
    meta = headers[0].meta | ({"architecture": made} if made else {})
    return as_open_clip(plain(headers, label, name, folder, meta))


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(_json(index)["weight_map"].values()))
        inside = all(isinstance(name, str) and Path(name).name == name for name in names)
    except (KeyError, TypeError, AttributeError):
        inside = False
    if not inside or not names:
        raise BadInput(f"{index}: expected a weight_map of tensors to files beside it, found something else")
    return [index.parent / name for name in names]


def _json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: expected a JSON file, found {error}") from None
    if not isinstance(found, dict):
        raise BadInput(f"{path}: expected keys and values, found a {type(found).__name__}")
    return found


def _repository(rest: str, say: Say) -> Path:
    """The cached snapshot of a repository, downloaded first unless HF_HUB_OFFLINE forbids it."""
    name, _, revision = rest.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise BadInput(f"hf:{rest}: expected hf:owner/name or hf:owner/name@revision")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0" if os.isatty(2) else "1")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        patterns = ["*.safetensors", "*.safetensors.index.json", *CONFIGS]
        found = Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except LocalEntryNotFoundError:
        why = (
            "and HF_HUB_OFFLINE forbids a download"
            if os.environ.get("HF_HUB_OFFLINE")
            else "and the hub is out of reach"
        )
        raise BadInput(f"hf:{rest}: expected it in the cache of huggingface_hub, found nothing there {why}") from None
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(f"hf:{rest}: expected a repository of the hub that can be read, found: {reason}") from None
    if not revision:
        say(f"hf:{name} is at revision {found.name}; hf:{name}@{found.name[:12]} pins it")
    return found


def _tag(rest: str, reference: str, say: Say) -> View:
    model, _, tag = rest.partition("/")
    import open_clip  # brings torch: only tags need it

    config, weights = open_clip.get_model_config(model), open_clip.get_pretrained_cfg(model, tag)
    if config is None or not weights:
        raise BadInput(f"{reference}: expected open_clip:ARCHITECTURE/TAG as in open_clip.list_pretrained()")
    if not weights.get("hf_hub", "").endswith("/"):  # else it names a file, and all those are pickles
        raise BadInput(f"{reference}: expected weights on a hub, found a pickle (see clipmerge convert)")
    if bool(weights.get("quick_gelu")) != bool(config.get("quick_gelu")):
        wanted = "QuickGELU" if weights.get("quick_gelu") else "GELU"
        raise BadInput(f"{reference}: these weights expect {wanted}; take the architecture of that kind")
    folder = _repository(weights["hf_hub"].strip("/"), say)
    view = _folder(folder, reference, f"{model}-{tag}")
    return replace(view, meta=dict(view.meta) | {"architecture": config})
