"""The way out: a model as a safetensors file in open_clip's layout, or as a folder that transformers loads."""

from pathlib import Path

from clipmerge import files
from clipmerge.clip.hub import architecture
from clipmerge.clip.hub.views import View, as_huggingface
from clipmerge.errors import BadInput
from clipmerge.merge.preflight import guard
from clipmerge.merge.safefile import new_folder, writing
from clipmerge.merge.sources import Source, chunks


def write(model: View, out: str | Path, layout: str = "open_clip", force: bool = False) -> Path:
    """Write a model that `opened` has opened; "huggingface" needs to know its architecture, for config.json."""
    out = guard(out, [model], force, folder=layout == "huggingface")
    if layout == "open_clip":
        _copy(model, out, dict(model.meta), force)
        return out
    made = model.meta.get("architecture", {})
    if not {"vision_cfg", "text_cfg"} <= made.keys():
        raise BadInput(f"{model.label}: expected a config beside the weights, found none")
    with new_folder(out, force) as partial:
        _copy(as_huggingface(model), partial / "model.safetensors", None, force)
        files.write_json(partial / "config.json", architecture.huggingface(made))
    return out


def _copy(model: Source, out: Path, meta: dict | None, force: bool) -> None:
    with model.reading("pread") as read, writing(out, model.layout, meta, force) as put:
        for span in chunks(model.layout, 2):
            put(*span[:2], read(*span))
