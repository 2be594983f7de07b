"""What the analyses look at: a profile's experts and ConDU's sessions, and how step functions read and grade them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from clipmerge.clip import evaluate, models
from clipmerge.merge import deltas
from clipmerge.study import experts, profiles
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import grading, sessions
from clipmerge.study.profiles import Profile

Delta = Mapping[str, Tensor]


def tuned(profile: Profile, seed: int) -> dict[str, Step]:
    """The experts of the profile's tasks as inputs ``expert.00``, ``expert.01``, … in the order of learning."""
    return sessions.numbered([experts.step(profile, task, seed) for task in profiles.order(profile)])


def changes(inputs: Mapping[str, Path]) -> list[Delta]:
    """The deltas that the inputs of `tuned` have left, in the order of learning."""
    return [experts.delta(inputs[name]) for name in sorted(inputs) if name.startswith("expert.")]


def grade(out: Path, config: Mapping, backs: Iterable[Delta]) -> None:
    """Write the test accuracy of each of the config's tasks under a delta of its own, as `grading` does."""
    model = models.create(config["model"])
    base = models.state(model)
    tasks = [experts.dataset(task) for task in config["tasks"]]
    graded = {}
    for data, back in zip(tasks, backs, strict=True):
        model.load_state_dict(deltas.apply_delta(base, back))
        graded[grading.FULL, "own", data.name] = evaluate.test_accuracy(model, config["model"], data)
    grading.write(out, graded, tasks)
