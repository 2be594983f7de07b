"""RAIL, primal form (Xu et al., arXiv 2406.18868): recursive ridge regression on the frozen base's image features.

Its dual form, with an RBF kernel and a Gram matrix that grows with the images, is not here: published numbers of it are
``rail-dual``.

Features are expanded once by a random layer, ``φ(z) = ReLU(z E)``. The classifier W of all classes seen so far has the
closed form of ridge regression and is updated task by task, exactly, from ``R = (Φᵀ Φ + ridge · 1)⁻¹`` alone. No
image of the past is kept and no weight of the base moves.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from clipmerge.clip import evaluate, training
from clipmerge.clip.datasets import Dataset
from clipmerge.study import experts
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import features, grading, voting
from clipmerge.study.condu.contract import Session, method

CHUNK = 256  # rows of one Woodbury update


@dataclass(frozen=True)
class Options:
    """width: of the random features; ridge; fusion: share of the regression, β (RAIL's configurations)."""

    width: int = 15000
    ridge: float = 0.1
    fusion: float = 0.8


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


@method("rail", answers=lambda session, kept: row(session, kept[-1]))
def keep(session: Session) -> Step:
    """All sessions in one step: they take a second each."""
    options = asdict(session.options(Options))
    own = session.learner.config
    tasks = [{**own, **experts.task_config(session.profile, task)} for task in session.order]
    seen = features.of_base(session.profile, session.order, session.model)
    return Step(learn_all, f"{session.name}/sessions", options | {"tasks": tasks}, {"features": seen}, session.seed)


def row(session: Session, kept: Step) -> Step:
    """One session of `kept`, as other methods are graded."""
    return Step(pick, session.label("grade"), {"session": session.number}, {"sessions": kept})


def learn_all(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: learn task after task and grade every task after each; a folder for each session."""
    seen = features.load(inputs["features"])
    tasks = [experts.dataset(entry) for entry in config["tasks"]]
    layer = expansion(seen[f"z.{tasks[0].name}"].shape[1], config["width"], seed)
    phi = {data.name: expand(seen[f"z.{data.name}"], layer) for data in tasks}
    state = empty(config["width"], config["ridge"])
    for number, (new, entry) in enumerate(zip(tasks, config["tasks"], strict=True), start=1):
        index = experts.usable(entry, new, seed)
        z, labels = seen[f"train.{new.name}"][index], seen[f"labels.{new.name}"][index]
        state = learn(state, expand(z, layer), labels, len(new.classes))
        folder = out / f"{number:02d}"
        folder.mkdir()
        grading.write(folder, _graded(tasks, seen, phi, state, number, config["fusion"]), tasks)


def _graded(
    tasks: Sequence[Dataset],
    seen: features.Features,
    phi: Mapping[str, Float[Tensor, "_ width"]],
    state: Regression,
    number: int,
    share: float,
) -> dict[tuple[str, str, str], float]:
    """Accuracy after session `number` by scheme, label space and task; nobody says which task an image is from.

    Columns of all tasks stand in the order of learning, so those learnt come first.
    """
    heads = torch.cat([seen[f"head.{data.name}"] for data in tasks])
    owner = voting.owners([len(data.classes) for data in tasks])
    learnt = owner < number
    found = {}
    for place, data in enumerate(tasks):
        zero_shot = evaluate.SCALE * seen[f"z.{data.name}"] @ heads.T
        answer = F.pad(phi[data.name] @ state.weights, (0, int((~learnt).sum())))
        for space in voting.SPACES:
            within = voting.allowed(owner, place, number, space)
            fused = fuse(zero_shot[:, within], answer[:, within], learnt[within], share)
            first = int((owner[within] == place).nonzero()[0])
            found[grading.FULL, space, data.name] = evaluate.accuracy(fused, data.test_labels + first)
    return found


def pick(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: the accuracies of one session."""
    shutil.copy(inputs["sessions"] / f"{config['session']:02d}" / grading.ACCURACY, out)
