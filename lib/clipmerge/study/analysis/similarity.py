"""Do decoupled experts see as their originals do? Features of a few hundred test images, t-SNE (Figure 5) and CKA."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from clipmerge import files
from clipmerge.clip import evaluate, models
from clipmerge.merge import deltas
from clipmerge.study import experts, profiles, results
from clipmerge.study.analysis import learned
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import protocol, sessions
from clipmerge.study.profiles import Profile

FEATURES, MAP = "features.safetensors", "map.safetensors"
SEEN_BY = ("zero-shot", "experts", "condu-ft", "emr")  # base, original expert, decoupled, decoupled in one shot
DRAWN = ("experts", "condu-ft")


def run(profile: Profile) -> pd.DataFrame:
    """Figure 5 in numbers: ``cka`` and mean ``cosine`` of own-task features with those of the original expert."""
    steps = {seed: step(profile, seed) for seed in profile.seeds}
    store.build(steps.values(), profile.compute)
    frames = []
    for seed, seen in steps.items():
        tensors = files.load_tensors(seen.folder / FEATURES)
        for task in profiles.order(profile):
            original = tensors[f"experts.{task}"]
            for who in (name for name in SEEN_BY if name != "experts"):
                other = tensors[f"{who}.{task}"]
                fixed = {"method": who, "seed": seed, "n": len(original), "model": profile.model}
                frames.append(results.rows({task: cka(original, other)}, metric="cka", **fixed))
                cosine = (original * other).sum(1).mean().item()
                frames.append(results.rows({task: cosine}, metric="cosine", **fixed))
    return pd.concat(frames, ignore_index=True)


def maps(profile: Profile, seed: int) -> dict[str, dict[str, Tensor]]:
    """Figure 5: for each drawn task the t-SNE places [n, 2] of the same images under both experts, and their labels."""
    features, steps = step(profile, seed), {}
    for task in profile.inside.drawn:
        config = {"task": task, "classes": profile.inside.drawn_classes}
        steps[task] = Step(embed, f"similarity/map/{task}", config, {"features": features})
    store.build(steps.values(), profile.compute)
    return {task: files.load_tensors(drawn.folder / MAP) for task, drawn in steps.items()}


def step(profile: Profile, seed: int) -> Step:
    """The step that computes features, by the experts, ConDU's last session and that of one-shot EMR."""
    inputs = experts.base_inputs(profile.model) | learned.tuned(profile, seed)
    inputs["condu"] = protocol.kept(profile, "condu-ft", seed)[-1]
    inputs["emr"] = protocol.kept(profile, "emr", seed)[-1]
    config = experts.config(profile, profiles.order(profile)) | {"images": profile.inside.images}
    return Step(see, "similarity/see", config, inputs)


def cka(a: Float[Tensor, "n p"], b: Float[Tensor, "n q"]) -> float:
    """Linear CKA of two feature sets of the same images: ‖BᵀA‖² / (‖AᵀA‖ ‖BᵀB‖), centred, Frobenius norms, in fp64.

    1 if one set is the other rotated, scaled and shifted (Kornblith et al., arXiv 1905.00414).
    """
    a, b = (x.double() - x.double().mean(0) for x in (a, b))
    norm = torch.linalg.matrix_norm(a.T @ a) * torch.linalg.matrix_norm(b.T @ b)
    return (torch.linalg.matrix_norm(b.T @ a) ** 2 / norm).item()


def see(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: unit features of some test images of every task, from the base and three forms of its expert."""
    model = models.create(config["model"])
    base = models.state(model)
    banks = {
        "experts": sessions.bank(inputs),
        "condu-ft": sessions.bank({"session": inputs["condu"]}),
        "emr": sessions.bank({"session": inputs["emr"]}),
    }
    tensors = {}
    for i, task in enumerate(config["tasks"]):
        data = experts.dataset(task)
        order = torch.randperm(len(data.test_labels), generator=torch.Generator().manual_seed(0))
        index = order[: config["images"]].sort().values  # drawn without looking at classes
        tensors[f"labels.{data.name}"] = data.test_labels[index]
        for who in SEEN_BY:
            model.load_state_dict(base if who == "zero-shot" else deltas.apply_delta(base, banks[who](i)))
            tensors[f"{who}.{data.name}"] = evaluate.features(model, data.test_images[index])
    files.save_tensors(out / FEATURES, tensors)


def embed(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: one t-SNE map of a task's images, each there twice, as original and as decoupled expert see it."""
    from sklearn.manifold import TSNE

    tensors, task = files.load_tensors(inputs["features"] / FEATURES), config["task"]
    labels = tensors[f"labels.{task}"]
    largest = torch.bincount(labels).argsort(descending=True, stable=True)[: config["classes"]]
    shown = torch.isin(labels, largest)
    both = torch.cat([tensors[f"{who}.{task}"][shown] for who in DRAWN])
    perplexity = min(30.0, len(both) / 4)
    flat = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(both.numpy())
    places = torch.from_numpy(flat).tensor_split(len(DRAWN))
    files.save_tensors(out / MAP, {**dict(zip(DRAWN, places, strict=True)), "labels": labels[shown]})
