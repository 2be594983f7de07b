"""Step functions of TIME: train, fold, merge, grade. `stages` makes steps of them, `loop` the loop.

Models travel as deltas from the base (`experts.DELTA`), so whatever takes an expert takes these too. Those to be merged
are inputs named ``expert.000``, ``expert.001`` and so on, oldest first.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from clipmerge import files
from clipmerge.clip import adapt, evaluate, models, replay
from clipmerge.clip.datasets import Dataset, validation_split
from clipmerge.merge import deltas, ema, techniques
from clipmerge.merge.lines import Lines
from clipmerge.study import experts

ACCURACY = "accuracy.json"
State = dict[str, Tensor]


def train(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: train the base, or ``start``, on the pairs of one task mixed with replay; writes delta and log."""
    model, base = experts.learner(config, inputs)
    data = {task["task"]: experts.dataset(task) for task in config["data"]}
    update = replay.source(data, config["update"], config["held_out"])
    buffer = replay.source(data, config["buffer"], config["held_out"]) if config["buffer"] else None
    sizes = tuple(config["sizes"])

    def batch(generator: torch.Generator) -> replay.Batch:
        return replay.mixed(sizes, update, buffer, config["scale_min"], generator)

    log = adapt.adapt(model, config["model"], batch, adapt.Recipe(**config["recipe"]), seed, config["number"])
    experts.leave(out, models.state(model), base, log)


def fold(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: one step r ← f(e, r) of an exponential moving average; without ``running`` r is the base."""
    _, base = _base(config["model"])
    expert = deltas.apply_delta(base, experts.delta(inputs["expert"]))
    running = deltas.apply_delta(base, experts.delta(inputs["running"])) if "running" in inputs else base
    options = _options(config["options"], config["technique"], seed)
    _save(out, ema.step(config["technique"], expert, running, base, config["weight"], **options), base)


def merge(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: all experts into one model at once, and keep it."""
    _, base = _base(config["model"])
    _save(out, _merged(base, config["blend"], inputs, seed), base)


def grade(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: accuracy of the base, of one model, or of what is merged here and not kept, on every set."""
    model, base = _base(config["model"])
    if any(name.startswith("expert.") for name in inputs):
        model.load_state_dict(_merged(base, config["blend"], inputs, seed))
    accuracy, sizes = {}, {}
    for entry in config["sets"]:
        data = _seen(experts.dataset(entry["data"]), entry["images"], config["held_out"])
        accuracy[data.name] = evaluate.test_accuracy(model, config["model"], data)
        sizes[data.name] = len(data.test_labels)
    files.write_json(out / ACCURACY, {"accuracy": accuracy, "n": sizes})


def _seen(data: Dataset, images: int | None, held_out: int | None) -> Dataset:
    """What is graded: a fixed random choice of test images (None: all), or of validation images of the train part.

    TIME evaluates with one prompt a dataset, so only the first template is kept.
    """
    if held_out is not None and len(data.train_labels):
        held = validation_split(data, seed=held_out)[1]
        data = replace(data, test_images=data.train_images[held], test_labels=data.train_labels[held])
    index = torch.arange(len(data.test_labels))
    if images is not None:
        index = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))[:images].sort().values
    test = {"test_images": data.test_images[index], "test_labels": data.test_labels[index]}
    return replace(data, templates=data.templates[:1], **test)


def _base(name: str) -> tuple[torch.nn.Module, State]:
    model = models.create(name)
    return model, models.state(model)


def _save(out: Path, state: State, base: State) -> None:
    files.save_tensors(out / experts.DELTA, deltas.delta(state, base))


def _merged(base: State, blend: Mapping | None, inputs: Mapping[str, Path], seed: int) -> State:
    """One expert alone is itself, as in TIME's code; several are merged as `blend` says."""
    folders = [inputs[name] for name in sorted(inputs) if name.startswith("expert.")]
    states = [deltas.apply_delta(base, experts.delta(folder)) for folder in folders]
    if blend is None or (len(states) == 1 and not blend["with_base"]):
        (state,) = states
        return state
    states = [base, *states] if blend["with_base"] else states
    options = _options(blend["options"], blend["technique"], seed)
    return techniques.merge(blend["technique"], states, base, blend["weights"], **options)


def _options(options: Mapping, technique: str, seed: int) -> dict:
    """Options of `techniques.merge`: a mapping ``lines`` becomes its modifier, random techniques get the seed."""
    found = dict(options)
    if "lines" in found:
        found["lines"] = Lines(**found["lines"])
    return found | ({"seed": seed} if techniques.find(technique).random else {})
