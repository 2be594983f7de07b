"""Few-shot MTIL (paper, Table 3): five images of each class, half the steps, otherwise ConDU's protocol.

Grading every session is the dearest part, so it is done for the profile's ``few_shot.session_methods`` and
``session_seeds``; the others are graded after the last session alone.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from clipmerge import files
from clipmerge.errors import BadInput
from clipmerge.study import experts, profiles, results
from clipmerge.study.cache import store
from clipmerge.study.cache.scheduler import Progress
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import grading, handful, protocol, sessions
from clipmerge.study.condu import lora as condu_lora
from clipmerge.study.experts import fewshot as fewshot_experts
from clipmerge.study.experts import lora as lora_experts
from clipmerge.study.profiles import Profile

METHODS = ("zero-shot", "continual-ft", "experts", "average", "condu-ft", "condu-lora")


def step(profile: Profile, task: str, seed: int, start: Step | None = None) -> Step:
    """The few-shot expert of `task`, from the base or (a link of a chain) from where `start` has ended."""
    inputs = experts.base_inputs(profile.model) | ({"start": start} if start else {})
    config = {"model": profile.model, "recipe": profiles.recipe(profile, task, "few_shot")} | _owned(profile, task)
    name = f"{'continual' if start else 'expert'}/few/{experts.label(profile.model)}/{task}"
    return Step(fewshot_experts.tune, name, config, inputs, seed)


def lora_step(profile: Profile, task: str, seed: int) -> Step:
    """The few-shot LoRA expert of `task`; gives the deltas of its factors."""
    config = condu_lora.start_config(profile, seed) | {"recipe": profiles.recipe(profile, task, "few_shot_lora")}
    name = f"expert/few-lora/{experts.label(profile.model)}/{task}"
    config |= _owned(profile, task)
    return Step(lora_experts.tune, name, config, experts.base_inputs(profile.model), seed)


def _owned(profile: Profile, task: str) -> dict:
    return experts.task_config(profile, task) | {"shots": profile.few_shot.shots}


def tuned(profile: Profile, method: str, seed: int, order: Sequence[str]) -> list[Step]:
    """Experts in the order of learning; for ``continual-ft`` a chain, for ``condu-lora`` their dense products."""
    if method == "condu-lora":
        return condu_lora.prepared(profile, "product", seed, [lora_step(profile, task, seed) for task in order])
    if method != "continual-ft":
        return [step(profile, task, seed) for task in order]
    chain = [step(profile, order[0], seed)]
    for task in order[1:]:
        chain.append(step(profile, task, seed, start=chain[-1]))
    return chain


def shot_prototypes(profile: Profile, seed: int, order: Sequence[str]) -> Step:
    """Prototypes of all tasks from the shots of one seed."""
    tasks = [experts.task_config(profile, task) for task in sorted(order)]
    config = {"model": profile.model, "tasks": tasks, "shots": profile.few_shot.shots}
    return Step(
        handful.read, f"reading/few/{experts.label(profile.model)}", config, experts.base_inputs(profile.model), seed
    )


def plan(profile: Profile, method: str, seed: int, order: Sequence[str] | None = None) -> list[Step]:
    """The steps that grade `method` after each session (zero-shot: as often as there are sessions)."""
    order = tuple(order or profiles.order(profile))
    if method not in METHODS:
        raise BadInput(f"few-shot: method: expected one of {', '.join(METHODS)}, found {method!r}")
    if method == "zero-shot":
        return protocol.plan(profile, method, seed, order)
    known, base = tuned(profile, method, seed, order), experts.base_inputs(profile.model)
    name = f"few/{method}/{experts.label(profile.model)}"
    config = {"model": profile.model, "tasks": [experts.task_config(profile, task) for task in order]}
    guide = {"reading": protocol.reading(profile, order), "shots": shot_prototypes(profile, seed, order)}
    kind = "condu-ft" if method == "condu-lora" else method
    grades = []
    for t, kept in enumerate(sessions.build(kind, name, known, profile.mtil.rescaler)):
        label, asked = f"grade/{name}/{t + 1:02d}", config | {"k": profile.mtil.k, "seen": t + 1}
        if method in sessions.SINGLE:
            grades.append(Step(grading.grade_model, label, config, base | kept))
        else:
            grades.append(Step(handful.grade, label, asked, guide | base | kept))
    return grades


def run(
    profile: Profile,
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Tidy rows: last for all seeds, transfer and average for those graded after every session.

    Column ``prototypes``: ``shots`` or ``full`` (they differ for unseen tasks), ``none`` where a method has none.
    """
    order, few = profiles.order(profile), profile.few_shot
    seeds = profile.seeds if seeds is None else seeds
    every = {(method, seed) for method in few.session_methods for seed in few.session_seeds}
    plans = {(method, seed): plan(profile, method, seed, order) for method in methods for seed in seeds}
    plans = {key: steps if key in every else steps[-1:] for key, steps in plans.items()}
    store.build([one for steps in plans.values() for one in steps], profile.workers, progress)
    frames = []
    for (method, seed), steps in plans.items():
        graded = [files.read_json(one.folder / grading.ACCURACY) for one in steps]
        for kind in ("none",) if method in sessions.SINGLE else handful.PROTOTYPES:
            found = [g["accuracy"] if kind == "none" else g["accuracy"][kind] for g in graded]
            a = np.array([[row[task] for task in order] for row in found])
            fixed = {"method": method, "seed": seed, "model": profile.model, "prototypes": kind}
            frames.append(_rows(a, order, graded[-1]["n"], fixed))
    return pd.concat(frames, ignore_index=True)


def _rows(a: np.ndarray, order: Sequence[str], n: dict, fixed: dict) -> pd.DataFrame:
    if len(a) == len(order):
        return results.mtil_rows(a, order, n=n, **fixed)
    values = dict(zip(order, a[-1].tolist(), strict=True))
    return results.rows(results.with_mean(values), metric="last", n=n, **fixed)
