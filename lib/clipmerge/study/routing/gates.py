"""Gates: the probability that an image is from each task, seen through the base's features.

Three of them: the cosine with the nearest prototype at CLIP's own scale, the same with a temperature chosen on
validation images, and a linear router. All are made of four fifths of the training images; the rest chooses what there
is to choose. Test images are never looked at.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from clipmerge import files
from clipmerge.clip import datasets, evaluate
from clipmerge.study import experts, profiles
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import features
from clipmerge.study.profiles import Profile

GATE = "gate.safetensors"
KINDS = ("cosine", "calibrated", "router")
PLAIN = 1 / evaluate.SCALE  # the temperature of CLIP's own logits
STRENGTHS = (1.0, 10.0, 100.0)  # inverse regularisation of the router, to choose from


def step(profile: Profile, seen: Step, seed: int) -> Step:
    """Fit the gates on what the base sees of the training part (`seen`, a step of `features`); `seed` splits it."""
    tasks = [experts.task_config(profile, task) for task in profiles.order(profile)]
    return Step(fit, f"gate/{experts.label(profile.model)}", {"tasks": tasks}, {"features": seen}, seed)


def fit(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: prototypes and router from the fitting images, τ and the router's strength from the others."""
    seen = features.load(inputs["features"])
    tensors: dict[str, Tensor] = {}
    parts: dict[str, list[Tensor]] = {"fit": [], "val": []}
    for task in config["tasks"]:
        data = experts.dataset(task)
        kept, held = datasets.validation_split(data, seed=seed)
        tensors[f"prototypes.{data.name}"] = features.prototypes(seen, data.name, index=kept)
        z = seen[f"train.{data.name}"]
        parts["fit"].append(z[kept])
        parts["val"].append(z[held])
    (x, y), (x_val, y_val) = (stack(parts[part]) for part in ("fit", "val"))
    scores = evaluate.similarity(x_val, [tensors[f"prototypes.{task['task']}"] for task in config["tasks"]])
    router, strength = route(x, y, x_val, y_val, len(parts["fit"]))
    tensors |= {"tau": torch.tensor([temperature(scores, y_val)], dtype=torch.float64)}
    tensors |= {"router": router, "strength": torch.tensor([strength], dtype=torch.float64)}
    files.save_tensors(out / GATE, tensors)


def stack(by_task: Sequence[Float[Tensor, "_ dim"]]) -> tuple[Float[Tensor, "n dim"], Int64[Tensor, " n"]]:
    """All images and the number of the task each is from."""
    return torch.cat(list(by_task)), torch.repeat_interleave(
        torch.arange(len(by_task)), torch.tensor([len(z) for z in by_task])
    )


def temperature(scores: Float[Tensor, "n tasks"], task: Int64[Tensor, " n"]) -> float:
    """The τ for which softmax(score / τ) explains best which task each image is from; every task counts the same."""
    found = minimize_scalar(lambda log: surprise((scores.double() / np.exp(log)).log_softmax(1), task), bounds=(-7, 1))
    return float(np.exp(found.x))


def surprise(log_p: Float[Tensor, "n tasks"], task: Int64[Tensor, " n"]) -> float:
    """Mean negative log-likelihood, every task counting the same however many images it has."""
    share = balance(task, log_p.shape[1])
    return -float((share * log_p.double().gather(1, task[:, None])[:, 0]).sum())


def balance(task: Int64[Tensor, " n"], tasks: int) -> Float[Tensor, " n"]:
    """A weight for each image: they sum to one, and so do those of every task (to the same)."""
    count = torch.bincount(task, minlength=tasks).double()
    return 1 / count[task] / (count > 0).sum()


def route(
    x: Float[Tensor, "n dim"],
    y: Int64[Tensor, " n"],
    x_val: Float[Tensor, "m dim"],
    y_val: Int64[Tensor, " m"],
    tasks: int,
) -> tuple[Float[Tensor, "tasks more"], float]:
    """Multinomial logistic regression, balanced: weights with the bias as last column, and the strength chosen."""
    best = None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000, tol=1e-3)
        model.fit(x.double().numpy(), y.numpy())
        rows = np.zeros((tasks, x.shape[1] + 1))
        rows[model.classes_] = np.c_[model.coef_, model.intercept_]
        weights = torch.from_numpy(rows)
        loss = surprise(router_logits(weights, x_val).log_softmax(1), y_val)
        if best is None or loss < best[0]:
            best = (loss, weights, strength)
    return best[1], best[2]


def router_logits(router: Float[Tensor, "tasks more"], z: Float[Tensor, "n dim"]) -> Float[Tensor, "n tasks"]:
    """Logits of the linear router."""
    return z.double() @ router[:, :-1].T + router[:, -1]


def load(folder: Path) -> dict[str, Tensor]:
    """What `fit` has written: ``prototypes.<task>``, ``tau``, ``router`` [tasks, dim + 1], ``strength``."""
    return files.load_tensors(folder / GATE)


def probabilities(
    gate: Mapping[str, Tensor], kind: str, z: Float[Tensor, "n dim"], order: Sequence[str]
) -> Float[Tensor, "n tasks"]:
    """How probable gate `kind` finds each task for images that the base sees as `z`; rows sum to one."""
    if kind == "router":
        return router_logits(gate["router"], z).softmax(1).float()
    scores = evaluate.similarity(z, [gate[f"prototypes.{task}"] for task in order])
    tau = PLAIN if kind == "cosine" else gate["tau"].item()
    return (scores.double() / tau).softmax(1).float()
