"""ConDU's protocol, multi-domain task-incremental learning: one accuracy matrix A[t, i] per method and seed.

A[t, i] is the accuracy on task i after session t. A *seen* task (i ≤ t) is answered by its own expert where the method
keeps experts apart; an *unseen* one by the base and the K experts nearest to the image (paper §4.3; `evaluate`).
Methods that keep a single model answer everything with it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from clipmerge import files
from clipmerge.study import experts, profiles, results
from clipmerge.study.cache import store
from clipmerge.study.cache.scheduler import Progress
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import grading, sessions, views
from clipmerge.study.profiles import Profile

METHODS = sessions.METHODS


def plan(profile: Profile, method: str, seed: int, order: Sequence[str] | None = None, model: str = "") -> list[Step]:
    """The steps that grade `method` after each session; what they build on is reached through their inputs."""
    order, model = tuple(order or profiles.order(profile)), model or profile.model
    if method == "continual-ft":
        tuned = experts.continual(profile, order, seed, model)
    else:
        tuned = [experts.step(profile, task, seed, model) for task in order]
    name, base = f"{method}/{experts.label(model)}", experts.base_inputs(model)
    config = {"model": model, "tasks": [experts.task_config(profile, task) for task in order]}
    grades = []
    for t, kept in enumerate(sessions.build(method, name, tuned, profile.mtil.rescaler)):
        label = f"grade/{name}/{t + 1:02d}" if kept else f"grade/{name}"  # zero-shot: every session is the same step
        if method in sessions.SINGLE:
            grades.append(Step(grading.grade_model, label, config, base | kept))
            continue
        asked = config | {"k": profile.mtil.k, "seen": t + 1}
        inputs = {"reading": reading(profile, order, model)}
        if method == "experts":  # they never change, so each looks at all images once and for all
            seen = sessions.numbered([views.step(profile, expert, order, model) for expert in tuned[: t + 1]])
            grades.append(Step(grading.grade_views, label, asked, inputs | seen))
        else:
            grades.append(Step(grading.grade_bank, label, asked, inputs | base | kept))
    return grades


def reading(profile: Profile, order: Sequence[str], model: str = "") -> Step:
    """What the base sees: features and logits of all test images, and every task's prototypes."""
    model = model or profile.model
    tasks = [experts.task_config(profile, task) for task in sorted(order)]
    name = f"reading/{experts.label(model)}"
    return Step(grading.read, name, {"model": model, "tasks": tasks}, experts.base_inputs(model))


def matrix(steps: Sequence[Step], order: Sequence[str]) -> np.ndarray:
    """The accuracy matrix [sessions, tasks] that computed grading steps have left, in per cent."""
    graded = [_read(step)["accuracy"] for step in steps]
    return np.array([[row[task] for task in order] for row in graded])


def _read(step: Step) -> dict:
    return files.read_json(store.get(step) / grading.ACCURACY)


def run(
    profile: Profile,
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] | None = None,
    order: Sequence[str] | None = None,
    model: str = "",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Tidy rows of methods × seeds: the accuracy of every session, and transfer, average and last."""
    order, model = tuple(order or profiles.order(profile)), model or profile.model
    seeds = profile.seeds if seeds is None else seeds
    plans = {(method, seed): plan(profile, method, seed, order, model) for method in methods for seed in seeds}
    store.build([step for steps in plans.values() for step in steps], profile.workers, progress)
    frames = []
    for (method, seed), steps in plans.items():
        a, fixed = matrix(steps, order), {"method": method, "seed": seed, "n": _read(steps[0])["n"], "model": model}
        frames += [results.matrix_rows(a, order, **fixed), results.mtil_rows(a, order, **fixed)]
    return pd.concat(frames, ignore_index=True)


def last(
    profile: Profile,
    methods: Sequence[str],
    model: str,
    seeds: Sequence[int] | None = None,
    progress: Progress | None = None,
    order: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Tidy rows of the last session alone (metric ``last``, per task and mean): a tenth of the work of `run`."""
    order, seeds = order or profiles.order(profile), profile.width_seeds if seeds is None else seeds
    final = {(method, seed): plan(profile, method, seed, order, model)[-1] for method in methods for seed in seeds}
    store.build(final.values(), profile.workers, progress)
    frames = []
    for (method, seed), step in final.items():
        graded = _read(step)
        fixed = {"method": method, "metric": "last", "seed": seed, "n": graded["n"], "model": model}
        frames.append(results.rows(results.with_mean(graded["accuracy"]), **fixed))
    return pd.concat(frames, ignore_index=True)
