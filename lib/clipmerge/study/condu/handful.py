"""Step functions of few-shot learning: prototypes from the shots, grades under two sets of prototypes.

A learner with five images of a class should have no more for its prototypes either; the authors' code takes them from
the whole training split. Both are graded in one pass: ``shots`` and ``full``.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from clipmerge import files
from clipmerge.clip import evaluate, models
from clipmerge.clip.datasets import Dataset
from clipmerge.merge import deltas
from clipmerge.study import experts
from clipmerge.study.condu import grading, sessions
from clipmerge.study.experts import fewshot as fewshot_experts

PROTOTYPES = ("shots", "full")
Answers = Callable[[Dataset, Tensor], Tensor]  # test images chosen by a mask → logits


def read(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: every task's prototypes from its shots alone."""
    base, tensors = models.create(config["model"]), {}
    for task in config["tasks"]:
        data = experts.dataset(task)
        index = fewshot_experts.owned(config, data, seed)
        tensors[f"prototypes.{data.name}"] = evaluate.prototypes(base, config["model"], data, index=index)
    files.save_tensors(out / grading.READING, tensors)


def grade(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: accuracy on every task, seen ones by their own expert, unseen ones under either prototypes."""
    seen, k = config["seen"], config["k"]
    tasks = [experts.dataset(task) for task in config["tasks"]]
    about = files.load_tensors(inputs["reading"] / grading.READING)
    routes = {"shots": files.load_tensors(inputs["shots"] / grading.READING), "full": about}
    chosen, answer = {}, {}
    for kind in PROTOTYPES:
        sets = [routes[kind][f"prototypes.{data.name}"] for data in tasks[:seen]]
        for u in tasks[seen:]:
            chosen[kind, u.name] = evaluate.nearest(evaluate.similarity(about[f"z.{u.name}"], sets), k)
            answer[kind, u.name] = evaluate.Aggregate.of(about[f"logits.{u.name}"])
    known = {}
    for i, (own, logits) in enumerate(zip(tasks[:seen], _members(config, inputs), strict=True)):
        known[own.name] = evaluate.accuracy(logits(own, torch.ones_like(own.test_labels).bool()), own.test_labels)
        for u in tasks[seen:]:
            asked = {kind: chosen[kind, u.name][:, i] for kind in PROTOTYPES}
            rows = torch.stack(list(asked.values())).any(0)
            part = logits(u, rows) if rows.any() else torch.zeros(0)
            for kind, mine in asked.items():
                if mine.any():
                    answer[kind, u.name].add(mine, part[mine[rows]])
    graded = {
        kind: known | {u.name: evaluate.accuracy(answer[kind, u.name].mean(), u.test_labels) for u in tasks[seen:]}
        for kind in PROTOTYPES
    }
    files.write_json(out / grading.ACCURACY, {"accuracy": graded, "n": {d.name: len(d.test_labels) for d in tasks}})


def _members(config: Mapping, inputs: Mapping[str, Path]) -> Iterator[Answers]:
    """One expert after the other: the base with its own or with its decoupled delta, ready to answer."""
    model, expert = models.create(config["model"]), sessions.bank(inputs)
    base = models.state(model)
    for i in range(config["seen"]):
        model.load_state_dict(deltas.apply_delta(base, expert(i)))
        yield lambda data, rows: evaluate.test_logits(model, config["model"], data, rows)
