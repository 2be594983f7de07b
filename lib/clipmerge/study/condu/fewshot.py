"""Few-shot MTIL (paper, Table 3): five images of each class, half the steps, otherwise ConDU's protocol.

A learner with five images of a class should have no more for its prototypes either; the authors' code takes them from
the whole training split. Both are graded: ``shots`` and ``full``. Grading every session is the dearest part, so it is
done for the profile's ``few_shot.session_methods`` and ``session_seeds``; others are graded after the last session.
"""

from collections.abc import Sequence
from functools import partial

import pandas as pd

from clipmerge.errors import BadInput
from clipmerge.study import experts, profiles
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import contract, grading, protocol
from clipmerge.study.condu import lora as condu_lora
from clipmerge.study.condu.contract import Learner
from clipmerge.study.experts import lora
from clipmerge.study.profiles import Profile

BASELINES = ("rail", "zscl", "moe-adapters")  # the paper's
METHODS = ("zero-shot", "continual-ft", "experts", "average", "condu-ft", "condu-lora", *BASELINES)


def step(profile: Profile, task: str, seed: int, start: Step | None = None) -> Step:
    """The few-shot expert of `task`, from the base or (a link of a chain) from where `start` has ended."""
    inputs = experts.base_inputs(profile.model, start)
    config = {"model": profile.model, "recipe": profiles.recipe(profile, task, "few_shot")} | _owned(profile, task)
    name = f"{'continual' if start else 'expert'}/few/{experts.label(profile.model)}/{task}"
    return Step(experts.tune, name, config, inputs, seed)


def lora_step(profile: Profile, task: str, seed: int) -> Step:
    """The few-shot LoRA expert of `task`; gives the deltas of its factors."""
    config = condu_lora.start_config(profile, seed) | {"recipe": profiles.recipe(profile, task, "few_shot_lora")}
    name = f"expert/few-lora/{experts.label(profile.model)}/{task}"
    return Step(lora.tune, name, config | _owned(profile, task), experts.base_inputs(profile.model), seed)


def _owned(profile: Profile, task: str) -> dict:
    images = {"shots": profile.few_shot.shots, "compute": profile.compute.numerics}
    return experts.task_config(profile, task) | images


def learner(profile: Profile, method: str, seed: int) -> Learner:
    """How few-shot experts are learned; the steps that grade them make prototypes of their images too."""
    shots = {"shots": profile.few_shot.shots}
    if method == "condu-lora":
        tuned = partial(lora_step, profile, seed=seed)
        factors = condu_lora.learner(profile, condu_lora.DEPLOYED, seed, tuned, "/few-lora")
        return Learner(factors.name, factors.learn, factors.config | shots)
    return Learner("/few", lambda task, start: step(profile, task, seed, start), shots, "few_shot")


def plan(profile: Profile, method: str, seed: int, order: Sequence[str] | None = None) -> list[Step]:
    """The steps that grade `method` after each session (zero-shot: as often as there are sessions)."""
    if method not in METHODS:
        raise BadInput(f"few-shot: method: expected one of {', '.join(METHODS)}, found {method!r}")
    if method == "zero-shot":
        return protocol.plan(profile, method, seed, order)
    kind = "condu-ft" if method == "condu-lora" else method
    return protocol.plan(profile, kind, seed, order, learner=learner(profile, method, seed))


def run(profile: Profile, methods: Sequence[str] = METHODS, seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """Tidy rows: last for all seeds, transfer and average for those graded after every session.

    Seeds are by default the profile's, and ``baselines.seeds`` for baselines that train a chain of their own. Column
    ``prototypes``: ``shots`` or ``full`` (they differ for unseen tasks), ``none`` where a method has none.
    """
    order, few = profiles.order(profile), profile.few_shot
    plans = {}
    for method in methods:
        own_chain = method in BASELINES and contract.find(method).chain
        usual = profile.baselines.seeds if own_chain else profile.seeds
        for seed in usual if seeds is None else seeds:
            steps = plan(profile, method, seed, order)
            every = method in few.session_methods and seed in few.session_seeds
            plans[method, seed] = steps if every else steps[-1:]
    store.build([one for steps in plans.values() for one in steps], profile.compute)
    frames = []
    for key, steps in plans.items():
        answers = contract.find("condu-ft" if key[0] == "condu-lora" else key[0]).answers
        asks = answers in ("bank", "own")  # unseen tasks by prototypes
        for kind in (grading.SHOTS, grading.FULL) if asks else ("none",):
            scheme = kind if asks else grading.FULL
            frames.append(protocol.of_plan(key, steps, order, profile.model, scheme).assign(prototypes=kind))
    return pd.concat(frames, ignore_index=True)
