"""The step function of `decoupled`: TIME's sets graded by experts that are asked one image at a time.

An image is *known* if a class of its dataset has been learned. TIME always says which dataset an image is from, never
which task: a task mixes datasets, and a dataset is spread over tasks. So there are three rules (`RULES`):

- ``routed``: of the tasks that taught classes of this dataset, the one with the prototype nearest to the image answers;
- ``told``: the task that taught the image's class answers, which nobody can know: a bound on what routing can bring;
- ``voted``: known images are treated as all others are.

Others are voted on by the base and the K tasks with the nearest prototypes (ConDU, paper §4.3). Where every task is a
dataset of its own, ``routed`` and ``told`` are ConDU's rule: a task's own expert answers.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from clipmerge import files
from clipmerge.clip import evaluate, models
from clipmerge.clip.datasets import Dataset
from clipmerge.study import experts
from clipmerge.study.condu import features, grading, panel, voting
from clipmerge.study.time import steps

RULES = ("routed", "told", "voted")
Chunk = Mapping[str, Sequence[int]]  # what a task taught: class numbers by dataset
Prototypes = Mapping[str, Float[Tensor, "classes dim"]]


def grade(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: accuracy and forward passes an image on TIME's sets, by rule, of the experts of all tasks so far.

    Inputs: the base's ``features`` of all sets and a bank of experts (`sessions.bank`). Config: the ``sets``, what each
    task taught (``chunks``) and K. Writes ``<rule>.json`` as `steps.grade` does, with ``passes`` beside.
    """
    base = features.load(inputs["features"])
    known = {name for chunk in config["chunks"] for name in chunk}
    prototypes = {name: features.prototypes(base, name) for name in known}
    sets = [steps.seen(experts.dataset(entry["data"]), entry["images"]) for entry in config["sets"]]
    schemes: dict[str, dict[str, Tensor]] = {rule: {} for rule in RULES}
    for data in sets:
        found = weights(data, base[f"z.{data.name}"], prototypes, config["chunks"], config["k"])
        for rule in RULES:
            schemes[rule][data.name] = found[rule]
    asked = panel.ask(_members(config, inputs), sets, schemes)
    accuracy = panel.grade(asked, schemes)
    for rule in RULES:
        entry = {"accuracy": {data.name: accuracy[rule, "own", data.name] for data in sets}}
        entry["n"] = {data.name: len(data.test_labels) for data in sets}
        entry["passes"] = {name: passes(w, rule, name in known) for name, w in schemes[rule].items()}
        files.write_json(out / f"{rule}.json", entry)


def weights(
    data: Dataset, z: Float[Tensor, "n dim"], prototypes: Prototypes, chunks: Sequence[Chunk], k: int
) -> dict[str, Float[Tensor, "n members"]]:
    """By rule: the weights of the base (column 0) and of each task's expert, for test images that the base sees as z.

    Where nobody is told the class, only prototypes of learned classes count.
    """
    every = [torch.cat([prototypes[name][classes] for name, classes in chunk.items()]) for chunk in chunks]
    voted = voting.weights(evaluate.similarity(z, every), k)
    if not any(data.name in chunk for chunk in chunks):
        return dict.fromkeys(RULES, voted)
    own = torch.full((len(z), len(chunks)), -torch.inf)
    teacher = torch.full((len(data.classes),), -1)
    for number, chunk in enumerate(chunks):
        if data.name in chunk:
            classes = torch.tensor(chunk[data.name])
            teacher[classes] = number
            own[:, number] = (z @ prototypes[data.name][classes].T).amax(1)
    routed = voting.weights(own, 1, base=False)
    task = teacher[data.test_labels]
    told = torch.zeros_like(routed).scatter_(1, 1 + task.clamp(min=0)[:, None], 1.0)
    return {"routed": routed, "told": torch.where(task[:, None] < 0, routed, told), "voted": voted}


def passes(weights: Float[Tensor, "n members"], rule: str, known: bool) -> float:
    """Forward passes of an image, on average: every member that has a say, and the base where it finds them."""
    asked = weights != 0
    if not (known and rule == "told"):
        asked[:, 0] = True
    return asked.sum(1).double().mean().item()


def _members(config: Mapping, inputs: Mapping[str, Path]) -> Iterator[panel.Member]:
    """The base, then one expert after the other."""
    yield panel.looking(models.create(config["model"]), config["model"])
    yield from grading.running(config, inputs, len(config["chunks"]))
