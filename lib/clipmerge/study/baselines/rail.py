"""RAIL, primal form (Xu et al., arXiv 2406.18868): recursive ridge regression on the frozen base's image features.

Features are expanded once by a random layer, ``φ(z) = ReLU(z E)``. The classifier W of all classes seen so far has the
closed form of ridge regression and is updated task by task, exactly, from ``R = (Φᵀ Φ + ridge · 1)⁻¹`` alone. No
image of the past is kept and no weight of the base moves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from clipmerge import files
from clipmerge.clip import evaluate, training
from clipmerge.study import experts
from clipmerge.study.baselines import reference
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import grading, protocol
from clipmerge.study.profiles import Profile

CHUNK = 256  # rows of one Woodbury update


@dataclass(frozen=True)
class Regression:
    """What RAIL keeps: the inverse of the regularised Gram matrix, and one column of weights per class seen."""

    inverse: Float[Tensor, "width width"]
    weights: Float[Tensor, "width classes"]


def expansion(dim: int, width: int, seed: int) -> Float[Tensor, "dim width"]:
    """The random layer E: Gaussian entries of variance 1/dim, in double precision."""
    return torch.randn(dim, width, generator=training.generator(seed, 0), dtype=torch.float64) / dim**0.5


def expand(z: Float[Tensor, "n dim"], layer: Float[Tensor, "dim width"]) -> Float[Tensor, "n width"]:
    """Random ReLU features of unit image features, in double precision."""
    return F.relu(z.double() @ layer)


def empty(width: int, ridge: float) -> Regression:
    """Before the first task: ``R = 1 / ridge`` and no class."""
    eye = torch.eye(width, dtype=torch.float64)
    return Regression(eye / ridge, torch.zeros(width, 0, dtype=torch.float64))


def learn(state: Regression, phi: Float[Tensor, "n width"], labels: Int64[Tensor, " n"], classes: int) -> Regression:
    """One more task with `classes` new classes; Woodbury's identity, block by block (paper, Theorem 1):

    ``R ← R − R Xᵀ (1 + X R Xᵀ)⁻¹ X R`` and ``W ← W + R Xᵀ (Y − X W)``. Old classes learn as well: the newcomer's images
    are negative examples of theirs.
    """
    old = state.weights.shape[1]
    weights = torch.cat([state.weights, torch.zeros(len(state.weights), classes, dtype=torch.float64)], 1)
    inverse, target = state.inverse, F.one_hot(labels + old, old + classes).double()
    for x, y in zip(phi.split(CHUNK), target.split(CHUNK), strict=True):
        gain = inverse @ x.T
        inner = torch.eye(len(x), dtype=torch.float64) + x @ gain
        new = torch.linalg.solve(inner, gain.T)  # (R Xᵀ)ᵀ for the new R: Woodbury gives both at once
        weights = weights + new.T @ (y - x @ weights)
        inverse = inverse - gain @ new
        inverse = (inverse + inverse.T) / 2  # rounding would let it drift from symmetry
    return Regression(inverse, weights)


def fuse(
    zero_shot: Float[Tensor, "n classes"],
    regression: Float[Tensor, "n classes"],
    learnt: Bool[Tensor, " classes"],
    share: float,
) -> Float[Tensor, "n classes"]:
    """Final scores: zero-shot CLIP decides whether an image is of a learnt domain; only then the regression is asked.

    ``(1 − β) · softmax(zero-shot) + β · regression`` where the class zero-shot CLIP would choose has been learnt, else
    zero-shot alone. Over an unseen task's own classes none has: its accuracy is zero-shot accuracy, exactly.
    """
    probability = zero_shot.softmax(1).double()
    inside = learnt[probability.argmax(1)]
    mixed = (1 - share) * probability + share * torch.where(learnt, regression, 0.0)
    return torch.where(inside[:, None], mixed, probability)


def step(profile: Profile, order: Sequence[str], seed: int) -> Step:
    """All sessions of RAIL in one step: they take a second each."""
    settings = profile.baselines
    config = {"width": settings.rail_width, "ridge": settings.rail_ridge, "share": settings.rail_fusion}
    config["tasks"] = [experts.task_config(profile, task) for task in order]
    inputs = {"train": reference.train_features(profile, order), "reading": protocol.reading(profile, order)}
    return Step(sessions, "baseline/rail", config, inputs, seed)


def sessions(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: learn task after task and grade every task after each; ``accuracy`` is a list of sessions."""
    train = files.load_tensors(inputs["train"] / reference.FEATURES)
    about = files.load_tensors(inputs["reading"] / grading.READING)
    tasks = [experts.dataset(task) for task in config["tasks"]]
    layer = expansion(about[f"z.{tasks[0].name}"].shape[1], config["width"], seed)
    seen = {data.name: expand(about[f"z.{data.name}"], layer) for data in tasks}
    state, rows, columns = empty(config["width"], config["ridge"]), [], {}
    for new in tasks:
        first = state.weights.shape[1]
        columns[new.name] = slice(first, first + len(new.classes))
        state = learn(state, expand(train[f"z.{new.name}"], layer), train[f"y.{new.name}"], len(new.classes))
        row = {}
        for data in tasks:
            zero_shot, learnt = about[f"logits.{data.name}"], data.name in columns
            answer = seen[data.name] @ state.weights[:, columns[data.name]] if learnt else zero_shot.double()
            every = torch.full((len(data.classes),), learnt)
            row[data.name] = evaluate.accuracy(fuse(zero_shot, answer, every, config["share"]), data.test_labels)
        rows.append(row)
    sizes = {data.name: len(data.test_labels) for data in tasks}
    files.write_json(out / grading.ACCURACY, {"accuracy": rows, "n": sizes})
