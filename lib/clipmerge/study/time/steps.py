"""Step functions of TIME: train, merge, grade. `pipeline` makes steps of them, `loop` the loop.

Models travel as deltas from the base (`experts.DELTA`), so whatever takes an expert takes these too. Those to be merged
are inputs named ``model.000``, ``model.001`` and so on; where a number is missing, the base takes part.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from clipmerge import files
from clipmerge.clip import adapt, evaluate, manifests, models, prompts, replay
from clipmerge.clip.datasets import Dataset
from clipmerge.clip.pairs import Pairs
from clipmerge.merge import deltas, techniques
from clipmerge.merge.lines import Lines
from clipmerge.study import experts
from clipmerge.study.cache import isolation

ACCURACY, TEXTS = "accuracy.json", "texts.safetensors"
State = dict[str, Tensor]


def train(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: train the base, or ``start``, on the pairs of one task mixed with replay; writes delta and log."""
    model, base = experts.learner(config, inputs)
    data = {task["task"]: experts.dataset(task) for task in config["data"]}
    update = replay.source(data, config["update"])
    buffer = replay.source(data, config["buffer"]) if config["buffer"] else None
    sizes = tuple(config["sizes"])

    def batch(generator: torch.Generator) -> Pairs:
        return replay.mixed(sizes, update, buffer, config["scale_min"], generator)

    recipe, kept = adapt.Recipe(**config["recipe"]), isolation.checkpoint()
    log = adapt.adapt(model, config["model"], batch, recipe, seed, config["number"], kept)
    experts.leave(out, models.state(model), base, log)


def merge(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: several models into one, by a technique of the registry."""
    base = models.state(models.create(config["model"]))
    merged = _merged(base, config["blend"], inputs, seed)
    files.save_tensors(out / experts.DELTA, deltas.delta(merged, base))


def grade(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: accuracy of the base, of one model, or of what is merged here and not kept."""
    model = models.create(config["model"])
    model.load_state_dict(_merged(models.state(model), config["blend"], inputs, seed))
    accuracy, sizes = {}, {}
    for entry in config["sets"]:
        data = seen(experts.dataset(entry["data"]), entry["images"])
        accuracy[data.name] = evaluate.test_accuracy(model, config["model"], data)
        sizes[data.name] = len(data.test_labels)
    files.write_json(out / ACCURACY, {"accuracy": accuracy, "n": sizes})


def read_texts(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: the base's zero-shot head of every adaptation set, from its first template."""
    model, heads = models.create(config["model"]), {}
    for name in config["digests"]:
        manifest = manifests.load(name)
        heads[name] = prompts.head(model, config["model"], manifest.classes, manifest.templates[:1])
    files.save_tensors(out / TEXTS, heads)


def seen(data: Dataset, images: int | None) -> Dataset:
    """What is graded: a fixed random choice of test images (None: all).

    TIME evaluates with one prompt a dataset, so only the first template is kept.
    """
    index = torch.arange(len(data.test_labels))
    if images is not None:
        index = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))[:images].sort().values
    test = {"test_images": data.test_images[index], "test_labels": data.test_labels[index]}
    return replace(data, templates=data.templates[:1], **test)


def _merged(base: State, blend: Mapping, inputs: Mapping[str, Path], seed: int) -> State:
    """The models ``model.000`` … merged as `blend` says; of one alone, that one, as in TIME's code."""
    states = []
    for i in range(blend["count"]):
        folder = inputs.get(f"model.{i:03d}")
        states.append(deltas.apply_delta(base, experts.delta(folder)) if folder else base)
    if len(states) == 1:
        return states[0]
    options = dict(blend["options"])
    if "lines" in options:
        options["lines"] = Lines(**options["lines"])
    if techniques.find(blend["technique"]).random:
        options["seed"] = seed
    return techniques.merge(blend["technique"], states, base, blend["weights"], **options)
