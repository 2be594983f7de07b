"""What a model sees of the training part: image features, and text features before they become heads.

Prototypes (image, text or both) and routers are made of these. The base looks at every task; an expert at its own,
which is all it ever had.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from clipmerge import files
from clipmerge.clip import evaluate, models, prompts
from clipmerge.merge import deltas
from clipmerge.study import experts
from clipmerge.study.cache.step import Step
from clipmerge.study.profiles import Profile

TRAITS = "traits.safetensors"
SIDES = ("both", "image", "text")


def step(profile: Profile, tasks: Sequence[str], kept: Step | None = None, model: str = "") -> Step:
    """What the base (or the tuned model of step `kept`) sees of the training images and class names of `tasks`.

    The file holds ``train.<task>`` [n, dim], unit length, in the order of the training images, ``labels.<task>`` [n]
    and ``text.<task>`` [classes, dim], the mean over templates of unit text features.
    """
    model = model or profile.model
    config = {"model": model, "tasks": [experts.task_config(profile, task) for task in sorted(tasks)]}
    inputs = experts.base_inputs(model) | ({"model": kept} if kept else {})
    return Step(see, f"traits/{kept.name if kept else experts.label(model)}", config, inputs)


def see(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: encode training images and class names."""
    model, tensors = models.create(config["model"]), {}
    if "model" in inputs:
        model.load_state_dict(deltas.apply_delta(model.state_dict(), experts.delta(inputs["model"])))
    for task in config["tasks"]:
        data = experts.dataset(task)
        texts = [prompts.head(model, config["model"], data.classes, [t]).cpu() for t in data.templates]
        tensors[f"text.{data.name}"] = torch.stack(texts).mean(0)
        tensors[f"train.{data.name}"] = evaluate.features(model, data.train_images)
        tensors[f"labels.{data.name}"] = data.train_labels
    files.save_tensors(out / TRAITS, tensors)


def load(folder: Path) -> dict[str, Tensor]:
    """What `see` has written."""
    return files.load_tensors(folder / TRAITS)


def head(traits: Mapping[str, Tensor], task: str) -> Float[Tensor, "classes dim"]:
    """The zero-shot head of a task: the text means at unit length."""
    return F.normalize(traits[f"text.{task}"], dim=-1)


def prototypes(
    traits: Mapping[str, Tensor], task: str, side: str = "both", index: Int64[Tensor, " m"] | None = None
) -> Float[Tensor, "classes dim"]:
    """`evaluate.prototypes` from kept features: normalise(½ (mean image feature + mean text feature)), or one side.

    `index` restricts the training images; a class that has none keeps its text.
    """
    z, labels, text = (traits[f"{part}.{task}"] for part in ("train", "labels", "text"))
    if index is not None:
        z, labels = z[index], labels[index]
    if side == "text":
        return F.normalize(text, dim=-1)
    count = torch.bincount(labels, minlength=len(text))[:, None]
    image = torch.zeros_like(text).index_add_(0, labels, z) / count.clamp(min=1)
    mixed = image if side == "image" else (image + text) / 2
    return F.normalize(torch.where(count > 0, mixed, text), dim=-1)
