"""Do decoupled experts see as their originals do? Features of a few hundred test images, t-SNE (Figure 5) and CKA."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipmerge import files
from clipmerge.clip import evaluate, models
from clipmerge.merge import deltas
from clipmerge.study import experts
from clipmerge.study.condu import sessions

FEATURES, MAP = "features.safetensors", "map.safetensors"
SEEN_BY = ("zero-shot", "experts", "condu-ft", "emr")  # base, original expert, decoupled, decoupled in one shot
DRAWN = ("experts", "condu-ft")


def cka(a: Float[Tensor, "n p"], b: Float[Tensor, "n q"]) -> float:
    """Linear CKA of two feature sets of the same images: ‖BᵀA‖² / (‖AᵀA‖ ‖BᵀB‖), centred, Frobenius norms, in fp64.

    1 if one set is the other rotated, scaled and shifted (Kornblith et al., arXiv 1905.00414).
    """
    a, b = (x.double() - x.double().mean(0) for x in (a, b))
    norm = torch.linalg.matrix_norm(a.T @ a) * torch.linalg.matrix_norm(b.T @ b)
    return (torch.linalg.matrix_norm(b.T @ a) ** 2 / norm).item()


def some(count: int, most: int, seed: int = 0) -> Int64[Tensor, " m"]:
    """At most so many of `count` image numbers, drawn without looking at classes."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most].sort().values


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
        index = some(len(data.test_labels), config["images"])
        tensors[f"labels.{data.name}"] = data.test_labels[index]
        for who in SEEN_BY:
            model.load_state_dict(base if who == "zero-shot" else deltas.apply_delta(base, banks[who](i)))
            tensors[f"{who}.{data.name}"] = evaluate.features(model, data.test_images[index])
    files.save_tensors(out / FEATURES, tensors)


def largest_classes(labels: Int64[Tensor, " n"], most: int) -> list[int]:
    """The classes with most images; of equal ones the first."""
    counts = torch.bincount(labels)
    return sorted(counts.argsort(descending=True, stable=True)[:most].tolist())


def embed(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: one t-SNE map of a task's images, each there twice, as original and as decoupled expert see it."""
    from sklearn.manifold import TSNE

    tensors, task = files.load_tensors(inputs["features"] / FEATURES), config["task"]
    labels = tensors[f"labels.{task}"]
    shown = torch.isin(labels, torch.tensor(largest_classes(labels, config["classes"])))
    both = torch.cat([tensors[f"{who}.{task}"][shown] for who in DRAWN])
    perplexity = min(30.0, len(both) / 4)
    flat = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(both.numpy())
    places = torch.from_numpy(flat).tensor_split(len(DRAWN))
    files.save_tensors(out / MAP, {**dict(zip(DRAWN, places, strict=True)), "labels": labels[shown]})


def likenesses(tensors: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[tuple[str, str], tuple[float, float]]:
    """(who, task) → (linear CKA, mean cosine) with the features of the task's original expert."""
    found = {}
    for task in tasks:
        original = tensors[f"experts.{task}"]
        for who in SEEN_BY:
            if who != "experts":
                other = tensors[f"{who}.{task}"]
                found[who, task] = cka(original, other), (original * other).sum(1).mean().item()
    return found
