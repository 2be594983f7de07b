"""The methods ConDU's Table 1 compares with, all through one door: the same rows as `mtil.run`.

`sequential` fine-tunes on and on (``l2 lwf lwf-vr icarl wise-ft zscl``), `rail` never moves the base, `ddas` and `moe`
are MoE-Adapters, `joint` sees all data at once and therefore has no sessions: its rows are metric ``last`` alone.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from clipmerge import files
from clipmerge.errors import BadInput
from clipmerge.study import experts, profiles, results
from clipmerge.study.baselines import ddas, joint, rail, sequential
from clipmerge.study.cache import store
from clipmerge.study.cache.scheduler import Progress
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import grading
from clipmerge.study.profiles import Profile

METHODS = (*sequential.METHODS, "rail", "moe-adapters", "joint")
MANY_SEEDS = ("rail",)  # cheap: as many seeds as ConDU; the others `Baselines.seeds`


def plan(profile: Profile, method: str, seed: int, order: Sequence[str] | None = None) -> list[Step]:
    """The steps that grade `method`: one a session, except ``rail`` (all in one) and ``joint`` (it has none)."""
    order = tuple(order or profiles.order(profile))
    if method == "rail":
        return [rail.step(profile, order, seed)]
    if method == "moe-adapters":
        return ddas.plan(profile, order, seed)
    if method == "joint":
        kept = [joint.chain(profile, order, seed)[-1]]
    elif method in sequential.METHODS:
        kept = sequential.chain(profile, method, order, seed)
    else:
        raise BadInput(f"baseline: expected one of {', '.join(METHODS)}, found {method!r}")
    config = {"model": profile.model, "tasks": [experts.task_config(profile, task) for task in order]}
    base, name = experts.base_inputs(profile.model), f"grade/{method}/{experts.label(profile.model)}"
    return [Step(grading.grade_model, f"{name}/{t:02d}", config, base | {"model": m}) for t, m in enumerate(kept, 1)]


def graded(steps: Sequence[Step], order: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
    """Accuracies [sessions, tasks] in per cent, as computed steps have left them, and the sizes of the test sets."""
    rows = []
    for step in steps:
        found = files.read_json(store.get(step) / grading.ACCURACY)
        rows += found["accuracy"] if isinstance(found["accuracy"], list) else [found["accuracy"]]
    return np.array([[row[task] for task in order] for row in rows]), found["n"]


def run(
    profile: Profile,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    order: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Tidy rows of methods × seeds, as `mtil.run` gives them; methods and seeds by default as the profile has them."""
    order, plans = tuple(order or profiles.order(profile)), {}
    for method in profile.baselines.methods if methods is None else methods:
        usual = profile.seeds if method in MANY_SEEDS else profile.baselines.seeds
        plans |= {(method, seed): plan(profile, method, seed, order) for seed in (usual if seeds is None else seeds)}
    store.build([step for steps in plans.values() for step in steps], profile.workers, progress)
    frames = []
    for (method, seed), steps in plans.items():
        a, n = graded(steps, order)
        fixed = {"method": method, "seed": seed, "n": n, "model": profile.model}
        if method == "joint":
            last = dict(zip(order, a[-1].tolist(), strict=True))
            frames.append(results.rows(results.with_mean(last), metric="last", **fixed))
        else:
            frames += [results.matrix_rows(a, order, **fixed), results.mtil_rows(a, order, **fixed)]
    return pd.concat(frames, ignore_index=True)
