"""Twenty to fifty tasks in a row (asked for by ConDU's reviewers): does decoupling still bring every task back?

The classes of all adaptation sets are shuffled and cut into small tasks, each gets a short expert, and ConDU learns
them one by one. Rows say, for each T of ``many.marks``, how good the answers on the first T tasks are.

cut({"digits": 10, "flags": 250}, count=6, smallest=4, seed=0)   # digits-1 … flags-4, in the order of learning
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from clipmerge import files
from clipmerge.clip import manifests
from clipmerge.errors import BadInput
from clipmerge.study import experts, profiles, results
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import many_tasks_steps as steps
from clipmerge.study.profiles import Profile

METHODS = steps.METHODS


@dataclass(frozen=True)
class Small:
    """One small task: some classes of one dataset, by position in its list of classes."""

    name: str
    dataset: str
    classes: tuple[int, ...]


def shares(sizes: Mapping[str, int], count: int, smallest: int) -> dict[str, int]:
    """How many pieces each dataset is cut into: `count` in all, dealt out in turn so that every domain is met often.

    `sizes` are numbers of classes. A dataset stops when one more piece would leave fewer than `smallest` classes in
    some piece; a dataset smaller than that is one piece. Raises BadInput if `count` pieces cannot be had.
    """
    pieces = dict.fromkeys(sizes, 1)
    while sum(pieces.values()) < count:
        can = [name for name in sizes if sizes[name] // (pieces[name] + 1) >= smallest]
        if not can:
            most = sum(pieces.values())
            raise BadInput(f"many.count: expected at most {most} tasks of {smallest} classes or more, found {count}")
        pieces[min(can, key=pieces.__getitem__)] += 1  # of equals, the first listed
    if sum(pieces.values()) > count:
        raise BadInput(f"many.count: expected at least {len(pieces)}, one task a dataset; found {count}")
    return pieces


def cut(sizes: Mapping[str, int], count: int, smallest: int, seed: int) -> tuple[Small, ...]:
    """Cut all datasets into `count` small tasks and shuffle them. Every class is in exactly one of them.

    `seed` draws which classes go together and the order of learning; the same seed gives the same tasks.
    """
    generator, tasks = torch.Generator().manual_seed(seed), []
    for dataset, pieces in shares(sizes, count, smallest).items():
        drawn = torch.randperm(sizes[dataset], generator=generator).tensor_split(pieces)
        width = len(str(pieces))
        tasks += [
            Small(f"{dataset}-{i:0{width}d}", dataset, tuple(sorted(part.tolist())))
            for i, part in enumerate(drawn, start=1)
        ]
    return tuple(tasks[i] for i in torch.randperm(len(tasks), generator=generator).tolist())


def tasks(profile: Profile, seed: int) -> tuple[Small, ...]:
    """The small tasks in the order of learning; another seed cuts and shuffles anew."""
    sizes = {name: len(manifests.load(name).classes) for name in (*profile.data.tasks, *profile.many.sets)}
    return cut(sizes, profile.many.count, profile.many.smallest, seed)


def plan(profile: Profile, seed: int) -> dict[str, Step]:
    """The step that learns (``learned``) and one grading step for each method."""
    setting = profile.many
    label = f"many/{experts.label(setting.model)}"
    cards = [
        experts.task_config(profile, small.dataset) | {"name": small.name, "classes": small.classes}
        for small in tasks(profile, seed)
    ]
    recipe = replace(profiles.recipe(profile), steps=setting.steps, warmup=setting.warmup, batch=setting.batch)
    base = experts.base_inputs(setting.model)
    fixed = {"model": setting.model, "compute": profile.compute.numerics}
    chunks = {}
    for number, start in enumerate(range(0, len(cards), setting.chunk)):
        config = fixed | {"recipe": recipe, "tasks": cards[start : start + setting.chunk]}
        chunks[f"chunk.{number:02d}"] = Step(steps.tune, f"{label}/tune", config, base, seed)
    config = {"rescaler": profile.mtil.rescaler, "marks": setting.marks}
    plan = {"learned": Step(steps.learn, f"{label}/learn", config, chunks)}
    for method in METHODS:
        inputs = {"zero-shot": {}, "condu-ft": {"learned": plan["learned"]}}.get(method, chunks)
        asked = config | fixed | {"method": method, "tasks": cards}
        plan[method] = Step(steps.grade, f"{label}/{method}", asked, base | inputs)
    return plan


def run(profile: Profile) -> pd.DataFrame:
    """Tidy rows, ``session`` = T, the number of tasks learned.

    Metrics: ``accuracy`` (task by task and mean over the T tasks seen), ``kept`` and ``gain_kept`` (per cent of the
    experts' accuracy, and of their gain over the base, on the same tasks), ``first`` (mean over the tasks of the first
    mark alone: what later tasks do to early ones), ``cosine`` (with the original delta, from −1 to 1) and ``density``
    (per cent of ones in the masks), both means over tasks seen.
    """
    plans = {seed: plan(profile, seed) for seed in profile.many.seeds}
    store.build([step for steps in plans.values() for step in steps.values()], profile.compute)
    frames = []
    for seed, planned in plans.items():
        fixed = {"seed": seed, "model": profile.many.model}
        graded = {method: files.read_json(planned[method].folder / steps.GRADES) for method in METHODS}
        frames += _graded(graded, [small.name for small in tasks(profile, seed)], profile.many.marks, fixed)
        drift = pd.DataFrame(files.read_json(planned["learned"].folder / steps.DRIFT))
        drift = drift.sort_values(["method", "metric", "session"]).assign(task="mean", n=pd.NA, source="ours", **fixed)
        frames.append(results.tidy(drift))
    return pd.concat(frames, ignore_index=True)


def _graded(graded: Mapping, order: Sequence[str], marks: Sequence[int], fixed: Mapping) -> Iterator[pd.DataFrame]:
    n = graded["experts"]["n"]
    for t in marks:
        seen, first = order[:t], order[: marks[0]]
        accuracy = {method: about["accuracy"][str(t)] for method, about in graded.items()}
        mean = {method: float(np.mean([by_task[name] for name in seen])) for method, by_task in accuracy.items()}
        gain = mean["experts"] - mean["zero-shot"]
        total = sum(n[name] for name in seen)
        for method, by_task in accuracy.items():
            here = {**fixed, "method": method, "session": t}
            values = {name: by_task[name] for name in seen} | {"mean": mean[method]}
            yield results.rows(values, metric="accuracy", n=n | {"mean": total}, **here)
            early = {"mean": float(np.mean([by_task[name] for name in first]))}
            yield results.rows(early, metric="first", n=sum(n[name] for name in first), **here)
            yield results.rows({"mean": 100 * mean[method] / mean["experts"]}, metric="kept", n=total, **here)
            kept = {"mean": 100 * (mean[method] - mean["zero-shot"]) / gain}
            yield results.rows(kept, metric="gain_kept", n=total, **here)
