"""How one expert sees every task: image features of all test images and the zero-shot heads, computed once and kept.

Whatever inference does with an expert afterwards (own labels or all labels, any K, any weighting) is a product of the
two: ``SCALE * z @ head.T``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from clipmerge import files
from clipmerge.clip import evaluate, models
from clipmerge.merge import deltas
from clipmerge.study import experts
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import sessions
from clipmerge.study.profiles import Profile

VIEW = "view.safetensors"


def step(profile: Profile, kept: Step, tasks: Sequence[str], model: str = "", number: int | None = None) -> Step:
    """The view of a tuned model (an expert's step), or of task `number` decoupled from a session's step.

    `tasks` is a set: their order does not matter. The file holds ``z.<task>`` [n, dim] and ``head.<task>``
    [classes, dim], both unit length.
    """
    model = model or profile.model
    config = {"model": model, "tasks": [experts.task_config(profile, task) for task in sorted(tasks)]}
    if number is None:
        return Step(see, f"view/{kept.name}", config, experts.base_inputs(model) | {"model": kept})
    inputs = experts.base_inputs(model) | {"session": kept}
    return Step(see, f"view/{kept.name}/{number:02d}", config | {"number": number}, inputs)


def see(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: put the delta onto the base and write what it sees."""
    model = models.create(config["model"])
    change = sessions.bank(inputs)(config["number"]) if "session" in inputs else experts.delta(inputs["model"])
    model.load_state_dict(deltas.apply_delta(model.state_dict(), change))
    tensors = {}
    for task in config["tasks"]:
        data = experts.dataset(task)
        tensors[f"z.{data.name}"] = evaluate.features(model, data.test_images)
        tensors[f"head.{data.name}"] = evaluate.head(model, config["model"], data)
    files.save_tensors(out / VIEW, tensors)


def load(folder: Path) -> dict[str, Tensor]:
    """What `see` has written."""
    return files.load_tensors(folder / VIEW)


def logits(view: Mapping[str, Tensor], task: str) -> Float[Tensor, "n classes"]:
    """Logits 100·cos of a task's test images over its own classes."""
    return evaluate.SCALE * view[f"z.{task}"] @ view[f"head.{task}"].T
