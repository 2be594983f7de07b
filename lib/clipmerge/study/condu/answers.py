"""Task-agnostic answers of one session: no image says which task it is from, so every one goes through the prototypes.

The base and the K experts nearest to the image answer (`evaluate`); only the images that ask an expert are shown to it.
Each answer is graded in three label spaces at once (`voting.SPACES`).
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from clipmerge import files
from clipmerge.clip import evaluate, models
from clipmerge.merge import deltas
from clipmerge.study import experts
from clipmerge.study.condu import grading, sessions, traits
from clipmerge.study.routing import voting

AGNOSTIC = "agnostic.json"


def answer(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: accuracy of a session's decoupled experts on every task, task identity unknown."""
    name, seen, model = config["model"], config["seen"], models.create(config["model"])
    theta = models.state(model)
    tasks = [experts.dataset(task) for task in config["tasks"]]
    about, text = files.load_tensors(inputs["reading"] / grading.READING), traits.load(inputs["traits"])
    everything = voting.heads({f"head.{data.name}": traits.head(text, data.name) for data in tasks}, _names(tasks))
    known = [about[f"prototypes.{data.name}"] for data in tasks[:seen]]
    chosen, totals = {}, {}
    for data in tasks:
        z = about[f"z.{data.name}"]
        chosen[data.name] = evaluate.nearest(evaluate.similarity(z, known), config["k"])
        totals[data.name] = evaluate.Aggregate.of(evaluate.SCALE * z @ everything.T)
    expert = sessions.bank(inputs)
    for i in range(seen):
        model.load_state_dict(deltas.apply_delta(theta, expert(i)))
        heads = voting.heads({f"head.{d.name}": evaluate.head(model, name, d) for d in tasks}, _names(tasks))
        for data in tasks:
            rows = chosen[data.name][:, i]
            if rows.any():
                z = evaluate.features(model, data.test_images[rows])
                totals[data.name].add(rows, evaluate.SCALE * z @ heads.T)
    means = {data.name: totals[data.name].mean() for data in tasks}
    files.write_json(out / AGNOSTIC, grade(means, tasks, seen))


def grade(means: Mapping[str, Tensor], tasks: list, seen: int) -> dict[str, dict[str, float]]:
    """Accuracy in per cent by label space and task, from logits [n, classes of all tasks]."""
    owner = voting.owners([len(data.classes) for data in tasks])
    return {
        space: {
            data.name: 100 * voting.hits(means[data.name], data.test_labels, owner, u, within).double().mean().item()
            for u, data in enumerate(tasks)
            for within in [voting.allowed(owner, u, seen, space)]
        }
        for space in voting.SPACES
    }


def _names(tasks: list) -> list[str]:
    return [data.name for data in tasks]
