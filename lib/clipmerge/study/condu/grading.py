"""Step functions that grade what a learner keeps: one model, a bank of experts, or experts whose views are kept.

A *seen* task (one of the first ``seen``) is answered by its own expert where the method keeps experts apart; an
*unseen* one by the base and the K experts nearest to the image (paper §4.3; `evaluate`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from clipmerge import files
from clipmerge.clip import evaluate, models
from clipmerge.merge import deltas
from clipmerge.study import experts
from clipmerge.study.condu import sessions, views

READING, ACCURACY = "reading.safetensors", "accuracy.json"


def read(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: features and logits of all test images as the base sees them, and every task's prototypes."""
    base, tensors = models.create(config["model"]), {}
    for task in config["tasks"]:
        data = experts.dataset(task)
        z = evaluate.features(base, data.test_images)
        tensors[f"z.{data.name}"] = z
        tensors[f"logits.{data.name}"] = evaluate.SCALE * z @ evaluate.head(base, config["model"], data).T
        tensors[f"prototypes.{data.name}"] = evaluate.prototypes(base, config["model"], data)
    files.save_tensors(out / READING, tensors)


def grade_model(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: accuracy of one model (the base plus a delta, if there is one) on every task."""
    model = models.create(config["model"])
    if "model" in inputs:
        model.load_state_dict(deltas.apply_delta(model.state_dict(), experts.delta(inputs["model"])))
    tasks = [experts.dataset(task) for task in config["tasks"]]
    _write(out, {data.name: evaluate.test_accuracy(model, config["model"], data) for data in tasks}, tasks)


def grade_views(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: as `grade_bank`, for experts whose views are kept."""
    seen = config["seen"]
    tasks = [experts.dataset(task) for task in config["tasks"]]
    known, about = tasks[:seen], files.load_tensors(inputs["reading"] / READING)
    bank = [views.load(inputs[name]) for name in sorted(inputs) if name != "reading"]
    accuracy = {
        own.name: evaluate.accuracy(views.logits(view, own.name), own.test_labels)
        for own, view in zip(known, bank, strict=True)
    }
    prototypes = [about[f"prototypes.{data.name}"] for data in known]
    for u in tasks[seen:]:
        chosen = evaluate.nearest(evaluate.similarity(about[f"z.{u.name}"], prototypes), config["k"])
        answer = evaluate.Aggregate.of(about[f"logits.{u.name}"])
        for rows, view in zip(chosen.T, bank, strict=True):
            answer.add(rows, views.logits(view, u.name)[rows])
        accuracy[u.name] = evaluate.accuracy(answer.mean(), u.test_labels)
    _write(out, accuracy, tasks)


def grade_bank(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: accuracy of a bank of experts, seen tasks by their own, unseen ones by the nearest K and the base.

    Experts are the outer loop, so that each is decoupled and loaded once.
    """
    name, seen, model = config["model"], config["seen"], models.create(config["model"])
    base = models.state(model)
    tasks = [experts.dataset(task) for task in config["tasks"]]
    known, unseen = tasks[:seen], tasks[seen:]
    about, expert = files.load_tensors(inputs["reading"] / READING), sessions.bank(inputs)
    prototypes = [about[f"prototypes.{data.name}"] for data in known]
    chosen = {
        u.name: evaluate.nearest(evaluate.similarity(about[f"z.{u.name}"], prototypes), config["k"]) for u in unseen
    }
    answer = {u.name: evaluate.Aggregate.of(about[f"logits.{u.name}"]) for u in unseen}
    accuracy = {}
    for i, own in enumerate(known):
        model.load_state_dict(deltas.apply_delta(base, expert(i)))
        accuracy[own.name] = evaluate.test_accuracy(model, name, own)
        for u in unseen:
            rows = chosen[u.name][:, i]
            if rows.any():
                answer[u.name].add(rows, evaluate.test_logits(model, name, u, rows))
    accuracy |= {u.name: evaluate.accuracy(answer[u.name].mean(), u.test_labels) for u in unseen}
    _write(out, accuracy, tasks)


def _write(out: Path, accuracy: Mapping[str, float], tasks: Sequence) -> None:
    sizes = {data.name: len(data.test_labels) for data in tasks}
    files.write_json(out / ACCURACY, {"accuracy": accuracy, "n": sizes})
