"""What one model sees of every task, computed once and kept: image features, and text features of the classes.

Whatever inference does with a model afterwards (own labels or all labels, any K, any weighting) is a product of two of
these, ``SCALE * z @ head.T``; prototypes and routers are made of the training side. By task the file holds

- of the test side ``z`` [n, dim] and ``head`` [classes, dim], both unit length;
- of the training side ``train`` [n, dim] and ``labels`` [n], and ``text`` [classes, dim], the mean over templates of
  unit text features.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from clipmerge import files
from clipmerge.clip import evaluate, models
from clipmerge.clip.datasets import Dataset
from clipmerge.merge import deltas
from clipmerge.study import experts
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import sessions
from clipmerge.study.profiles import Profile

FILE = "features.safetensors"
SIDES = ("both", "image", "text")
Features = Mapping[str, Tensor]


def of_base(profile: Profile, tasks: Sequence[str], model: str = "") -> Step:
    """Both sides as the untouched base sees them. `tasks` is a set: their order does not matter, here and below."""
    name = f"features/{experts.label(model or profile.model)}"
    return _step(profile, name, tasks, {}, model, parts=["test", "train"])


def of_model(profile: Profile, kept: Step, tasks: Sequence[str], model: str = "", part: str = "test") -> Step:
    """One side as a tuned model (the step that leaves its delta) sees it."""
    return _step(profile, f"features/{part}/{kept.name}", tasks, {"model": kept}, model, parts=[part])


def of_task(profile: Profile, session: Step, number: int, tasks: Sequence[str]) -> Step:
    """The test side as the expert of task `number` sees it, decoupled from what a session has kept."""
    name = f"features/test/{session.name}/{number:02d}"
    return _step(profile, name, tasks, {"session": session}, parts=["test"], number=number)


def _step(profile: Profile, name: str, tasks: Sequence[str], kept: Mapping, model: str = "", **config: object) -> Step:
    config |= experts.config(profile, sorted(tasks), model)
    return Step(see, name, config, experts.base_inputs(config["model"]) | kept)


def see(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: put the delta, if there is one, onto the base and write what it sees."""
    model = models.create(config["model"])
    if "session" in inputs or "model" in inputs:
        change = sessions.bank(inputs, config)(config.get("number", 0))
        model.load_state_dict(deltas.apply_delta(models.state(model), change))
    tensors = {}
    for entry in config["tasks"]:
        data = experts.dataset(entry)
        for part in config["parts"]:
            seen = {"test": _test, "train": _train}[part](model, config["model"], data)
            tensors |= {f"{kind}.{data.name}": value for kind, value in seen.items()}
    files.save_tensors(out / FILE, tensors)


def _test(model: nn.Module, name: str, data: Dataset) -> dict[str, Tensor]:
    return {"z": evaluate.features(model, data.test_images), "head": evaluate.head(model, name, data)}


def _train(model: nn.Module, name: str, data: Dataset) -> dict[str, Tensor]:
    z = evaluate.features(model, data.train_images)
    text = evaluate.texts(model, name, data.classes, data.templates)
    return {"text": text, "train": z, "labels": data.train_labels.clone()}


def load(folder: Path) -> dict[str, Tensor]:
    """What `see` has written."""
    return files.load_tensors(folder / FILE)


def prototypes(
    seen: Features, task: str, side: str = "both", index: Int64[Tensor, " m"] | None = None
) -> Float[Tensor, "classes dim"]:
    """One prototype a class in this model's space (paper §4.3); `index` restricts the images (few shots)."""
    z, labels, text = (seen[f"{kind}.{task}"] for kind in ("train", "labels", "text"))
    if index is not None:
        z, labels = z[index], labels[index]
    return evaluate.prototypes(z, labels, text, side)


def radii(
    seen: Features, tasks: Sequence[str], sets: Sequence[Float[Tensor, "_ dim"]], quantile: float
) -> Float[Tensor, " tasks"]:
    """How near a task's own training images are to its prototypes: the `quantile` of their similarity, by task."""
    own = [evaluate.similarity(seen[f"train.{task}"], [p])[:, 0] for task, p in zip(tasks, sets, strict=True)]
    return torch.stack([scores.quantile(quantile) for scores in own])
