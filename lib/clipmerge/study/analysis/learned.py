"""What the analyses look at: a profile's experts and ConDU's sessions, and how step functions read and grade them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from clipmerge.clip import evaluate, models
from clipmerge.merge import deltas
from clipmerge.study import experts, profiles
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import sessions
from clipmerge.study.profiles import Profile

Delta = Mapping[str, Tensor]


def tuned(profile: Profile, seed: int) -> dict[str, Step]:
    """The experts of the profile's tasks as inputs ``expert.00``, ``expert.01``, … in the order of learning."""
    return sessions.numbered([experts.step(profile, task, seed) for task in profiles.order(profile)])


def kept(profile: Profile, method: str, seed: int) -> list[Step]:
    """What ``condu-ft`` or ``emr`` keeps after each session: the steps that `protocol` grades."""
    name = f"{method}/{experts.label(profile.model)}"
    steps = list(tuned(profile, seed).values())
    return [inputs["session"] for inputs in sessions.build(method, name, steps, profile.mtil.rescaler)]


def tasks(profile: Profile) -> dict:
    """The configuration of a step that looks at all tasks: model and images."""
    return {"model": profile.model, "tasks": [experts.task_config(profile, task) for task in profiles.order(profile)]}


def changes(inputs: Mapping[str, Path]) -> list[Delta]:
    """The deltas that the inputs of `tuned` have left, in the order of learning."""
    return [experts.delta(inputs[name]) for name in sorted(inputs) if name.startswith("expert.")]


def grade(config: Mapping, backs: Iterable[Delta]) -> dict[str, dict]:
    """Test accuracy (per cent) of each of `tasks` under a delta of its own, and its number of test images."""
    model = models.create(config["model"])
    base = models.state(model)
    accuracy, sizes = {}, {}
    for task, back in zip(config["tasks"], backs, strict=True):
        data = experts.dataset(task)
        model.load_state_dict(deltas.apply_delta(base, back))
        accuracy[data.name] = evaluate.test_accuracy(model, config["model"], data)
        sizes[data.name] = len(data.test_labels)
    return {"accuracy": accuracy, "n": sizes}
