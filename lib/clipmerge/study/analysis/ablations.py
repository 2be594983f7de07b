"""Step functions of Table 5: experts under another rule of unifying, and experts merged into one model for all tasks.

Experts are inputs ``expert.00``, ``expert.01``, … in the order of learning.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from clipmerge import files
from clipmerge.clip import evaluate, models
from clipmerge.merge import deltas, techniques
from clipmerge.study import experts
from clipmerge.study.analysis import fisher, rules

ACCURACY = "accuracy.json"


def tuned(inputs: Mapping[str, Path]) -> list[dict[str, Tensor]]:
    """The experts' deltas, in the order of learning."""
    return [experts.delta(inputs[name]) for name in sorted(inputs) if name.startswith("expert.")]


def grade_rule(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Learn all tasks by a rule and grade each by its own reconstruction, as after the last session."""
    model = models.create(config["model"])
    base = models.state(model)
    accuracy, sizes = {}, {}
    for task, back in zip(config["tasks"], rules.learn(tuned(inputs), rules.Rule(**config["rule"])), strict=True):
        data = experts.dataset(task)
        model.load_state_dict(deltas.apply_delta(base, back))
        accuracy[data.name] = evaluate.test_accuracy(model, config["model"], data)
        sizes[data.name] = len(data.test_labels)
    files.write_json(out / ACCURACY, {"accuracy": accuracy, "n": sizes})


def merge(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Merge all experts by a technique of the registry; leaves the merged model's delta."""
    base = models.create(config["model"]).state_dict()
    states = [deltas.apply_delta(base, delta) for delta in tuned(inputs)]
    merged = techniques.merge(config["technique"], states, base, seed=seed, **config["options"])
    files.save_tensors(out / experts.DELTA, deltas.delta(merged, base))


def merge_by_fisher(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Merge all experts, every weight by how much each task depends on it; leaves the merged model's delta."""
    model = models.create(config["model"])
    model.logit_scale.requires_grad_(False)  # it was not tuned
    base = models.state(model)
    states, diagonals = [], []
    for task, delta in zip(config["tasks"], tuned(inputs), strict=True):
        states.append(deltas.apply_delta(base, delta))
        model.load_state_dict(states[-1])
        data = experts.dataset(task)
        diagonals.append(fisher.diagonal(model, config["model"], data, config["batches"], config["batch"], seed))
    merged = techniques.merge("fisher", states, base, fishers=diagonals)
    files.save_tensors(out / experts.DELTA, deltas.delta(merged, base))
