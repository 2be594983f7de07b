"""What some baselines look at besides the task: reference pictures of the pretraining pool, exemplars of the past.

ZSCL takes ImageNet images and captions of Conceptual Captions; here the nano models' own pretraining pool stands in. No
picture of it is a test image. The teacher θ⁰ never changes, so its features are computed once and kept.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from clipmerge import files, paths
from clipmerge.clip import augment, datasets, evaluate, models, pool, pretrain, prompts, training
from clipmerge.clip.datasets import Dataset
from clipmerge.study import experts
from clipmerge.study.cache.step import Step
from clipmerge.study.profiles import Profile

REFERENCE, FEATURES = "reference.safetensors", "features.safetensors"


def step(profile: Profile) -> Step:
    """Reference images and texts with the features the untouched base gives them; one set for all seeds."""
    settings = profile.baselines
    config = {"model": profile.model, "images": settings.reference_images, "texts": settings.reference_texts}
    inputs = {"pool": paths.manifests() / "pretraining" / "pool.yaml"} | experts.base_inputs(profile.model)
    return Step(draw, "baseline/reference", config, inputs)


def draw(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: draw pictures and captions as pretraining does, and let the base look at them."""
    pictures, model = pool.load(), models.create(config["model"])
    generator = training.generator(seed, 0)
    index, kinds, _, captions = pretrain.draw(pictures, max(config["images"], config["texts"]), generator)
    most = config["images"]
    images = augment.images(pictures, index[:most], kinds[:most], generator).permute(0, 2, 3, 1).contiguous()
    tokens = models.tokenizer(config["model"])(captions[: config["texts"]])
    tensors = {"images": images, "z": evaluate.features(model, images), "w": text_features(model, tokens)}
    files.save_tensors(out / REFERENCE, tensors)


@torch.no_grad()
def text_features(model: nn.Module, tokens: Int64[Tensor, "n context"]) -> Float[Tensor, "n dim"]:
    """Unit features of texts, in groups of similar length."""
    return models.encode_text(model, tokens, pieces=1 + len(tokens) // models.TEXTS)


def exemplars(
    earlier: Sequence[Dataset], memory: int, seed: int
) -> tuple[UInt8[Tensor, "m h w 3"], list[Int64[Tensor, " k"]]]:
    """A memory of past images, shared evenly by all past classes (at least one each), drawn at random.

    Returns the images, all tasks together, and which train images of each task were taken. iCaRL picks them by herding
    towards the class mean; at two images a class there is little to herd (simplified).
    """
    classes = sum(len(data.classes) for data in earlier)
    each, picked = max(1, memory // max(1, classes)), []
    for data in earlier:
        shuffled = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(seed))
        labels = data.train_labels[shuffled]
        rows = [shuffled[labels == label][:each] for label in range(len(data.classes))]
        picked.append(torch.cat(rows))
    return torch.cat([data.train_images[rows] for data, rows in zip(earlier, picked, strict=True)]), picked


def class_tokens(name: str, data: Dataset) -> Int64[Tensor, "classes context"]:
    """The texts a task is trained with: its first template."""
    return prompts.tokens(name, data.classes, data.templates[0])


def train_features(profile: Profile, tasks: Sequence[str]) -> Step:
    """The base's features of all *training* images of a set of tasks (no augmentation): what frozen learners see."""
    config = {"model": profile.model, "tasks": [experts.task_config(profile, task) for task in sorted(tasks)]}
    return Step(see, "baseline/train-features", config, experts.base_inputs(profile.model))


def see(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: ``z.<task>`` [n, dim], ``y.<task>`` [n] and ``held.<task>``, the validation rows of each task."""
    model, tensors = models.create(config["model"]), {}
    for task in config["tasks"]:
        data = experts.dataset(task)
        tensors[f"z.{data.name}"] = evaluate.features(model, data.train_images)
        tensors[f"y.{data.name}"] = data.train_labels.clone()
        tensors[f"held.{data.name}"] = datasets.validation_split(data)[1]
    files.save_tensors(out / FEATURES, tensors)
