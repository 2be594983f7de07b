"""What some baselines look at besides the task: reference pictures and captions of the pretraining pool.

ZSCL takes ImageNet images and captions of Conceptual Captions; here the nano models' own pretraining pool stands in. No
picture of it is a test image. The teacher θ⁰ never changes, so its features are computed once and kept.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from clipmerge import files, paths
from clipmerge.clip import augment, evaluate, models, pool, pretrain, prompts, training
from clipmerge.clip.datasets import Dataset
from clipmerge.study import experts
from clipmerge.study.cache.step import Step
from clipmerge.study.profiles import Profile

REFERENCE = "reference.safetensors"


def step(profile: Profile, images: int, texts: int) -> Step:
    """Reference images and texts with the features the untouched base gives them; one set for all seeds."""
    config = {"model": profile.model, "compute": profile.compute.numerics, "images": images, "texts": texts}
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


def class_tokens(name: str, data: Dataset) -> Int64[Tensor, "classes context"]:
    """The texts that a task is distilled in: its first template."""
    return prompts.tokens(name, data.classes, data.templates[0])
