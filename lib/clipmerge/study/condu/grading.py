"""The step function that grades: what a method has kept after a session, on every task, under one rule or several.

A *known* task (one of the first ``seen``, unless nobody says which task an image is from) is answered by its own
expert; all others by the base and the K experts nearest to the image (paper §4.3). A single model answers everything.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from clipmerge import files
from clipmerge.clip import evaluate, models
from clipmerge.clip.datasets import Dataset
from clipmerge.merge import deltas
from clipmerge.study import experts
from clipmerge.study.condu import features, panel, sessions, voting

ACCURACY = "accuracy.json"
# schemes: prototypes of all training images, or of a few-shot learner's own; the rule with a radius (`routing.radius`)
FULL, SHOTS, RADIUS = "full", "shots", "radius"


def grade(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: accuracy in the label ``spaces`` (default: own) of a single model, or of a bank of experts.

    Of a single model ``learned`` is the number of tasks learned so far (default: all), which the space ``seen`` counts.
    A bank has the base's ``features`` among its inputs and in its config ``seen`` and ``k``; ``known`` false: nobody
    says which task an image is from; ``shots``, ``radius``: a further scheme each, graded beside the first.
    """
    tasks = [experts.dataset(entry) for entry in config["tasks"]]
    spaces = config.get("spaces", ["own"])
    seen = config.get("seen")
    if seen is None:
        schemes = {FULL: {data.name: torch.ones(len(data.test_labels), 1) for data in tasks}}
        members = running(config, inputs, 1)
    else:
        base = features.load(inputs["features"])
        schemes = {kind: _weights(config, base, tasks, kind, seed) for kind in _kinds(config)}
        members = _bank(base, config, inputs)
    asked = panel.ask(members, tasks, schemes, heads=spaces != ["own"])
    learned = dict.fromkeys(schemes, config.get("learned", len(tasks)) if seen is None else seen)
    write(out, panel.grade(asked, schemes, spaces, learned), tasks)


def _kinds(config: Mapping) -> list[str]:
    return [FULL, *(kind for kind in (SHOTS, RADIUS) if config.get(kind))]


def _weights(
    config: Mapping, base: features.Features, tasks: Sequence[Dataset], kind: str, seed: int
) -> dict[str, Float[Tensor, "_ members"]]:
    """Who answers: by task, the weights of the base (first) and of the experts of the first ``seen`` tasks."""
    rule = config[RADIUS] if kind == RADIUS else {}
    learned = tasks[: config["seen"]]
    sets = []
    for data in learned:
        index = experts.usable(config, data, seed) if kind == SHOTS else None
        sets.append(features.prototypes(base, data.name, rule.get("prototypes", "both"), index))
    radii = features.radii(base, [data.name for data in learned], sets, rule["quantile"]) if rule else None
    found = {}
    for number, data in enumerate(tasks):
        if config.get("known", True) and number < len(sets):
            found[data.name] = voting.own(number, len(sets), len(data.test_labels))
            continue
        scores = evaluate.similarity(base[f"z.{data.name}"], sets)
        found[data.name] = voting.fenced(scores - radii, rule["tau"]) if rule else voting.weights(scores, config["k"])
    return found


def _bank(base: features.Features, config: Mapping, inputs: Mapping[str, Path]) -> Iterator[panel.Member]:
    """The base, then the experts: as they have seen the test images (inputs ``seen.00`` …), or running."""
    yield panel.remembering(base)
    views = sorted(name for name in inputs if name.startswith("seen."))
    if views:
        yield from (panel.remembering(features.load(inputs[name])) for name in views)
    else:
        yield from running(config, inputs, config["seen"])


def running(config: Mapping, inputs: Mapping[str, Path], count: int) -> Iterator[panel.Member]:
    """One model after the other in the same memory: the base plus one delta each, or plus none."""
    model = models.create(config["model"])
    base = models.state(model)
    change = sessions.bank(inputs, config)
    for number in range(count):
        model.load_state_dict(deltas.apply_delta(base, change(number)))
        yield panel.looking(model, config["model"])


def write(out: Path, graded: Mapping[tuple[str, str, str], float], tasks: Sequence[Dataset]) -> None:
    """Write accuracies by scheme, label space and task, with the sizes of the test sets."""
    accuracy: dict[str, dict[str, dict[str, float]]] = {}
    for (scheme, space, task), value in graded.items():
        accuracy.setdefault(scheme, {}).setdefault(space, {})[task] = value
    sizes = {data.name: len(data.test_labels) for data in tasks}
    files.write_json(out / ACCURACY, {"accuracy": accuracy, "n": sizes})


def read(folder: Path, scheme: str = FULL, space: str = "own") -> tuple[dict[str, float], dict[str, int]]:
    """Accuracy (per cent) by task, and the number of test images of each, as a grading step has left them."""
    found = files.read_json(folder / ACCURACY)
    return found["accuracy"][scheme][space], found["n"]
