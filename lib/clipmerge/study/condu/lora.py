"""ConDU with LoRA experts, its deltas taken on the factors A and B by themselves or on the product B A.

``factors``, the method ``condu-lora``: A and B are unified as if they were weights of their own, and multiplied after
decoupling (what the authors' code does). ``product``, a variant of ours: the experts' dense deltas s · B A are unified,
as those of full fine-tuning are. ``other-init``: factors again, with deltas taken from another random initialisation
than the one tuning started from, an offset all tasks share (the authors' code draws three; here for comparison).
``experts`` unifies nothing: what the experts themselves know.
"""

from collections.abc import Callable, Sequence

import pandas as pd

from clipmerge.errors import BadInput
from clipmerge.study import experts, profiles
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import protocol
from clipmerge.study.condu.contract import Learner
from clipmerge.study.experts import lora
from clipmerge.study.profiles import Profile

DEPLOYED = "factors"  # what `condu-lora` means in every table
KINDS = {kind: f"condu-lora-{kind}" for kind in ("product", "other-init")}  # by the method's name in rows
KINDS |= {DEPLOYED: "condu-lora", "experts": "experts"}
OTHER = 1000  # added to a seed: the other initialisation


def step(profile: Profile, task: str, seed: int) -> Step:
    """The LoRA expert of `task`; gives the deltas of its factors."""
    recipe = profiles.recipe(profile, task, "lora")
    config = start_config(profile, seed) | {"recipe": recipe}
    config |= {"compute": profile.compute.numerics, **experts.task_config(profile, task)}
    name = f"expert/lora/{experts.label(profile.model)}/{task}"
    return Step(lora.tune, name, config, experts.base_inputs(profile.model), seed)


def start_config(profile: Profile, seed: int) -> dict:
    """What the initial factors depend on."""
    shape = {"rank": profile.lora.rank, "sd_a": profile.lora.sd_a, "sd_b": profile.lora.sd_b}
    return {"model": profile.model, "lora": shape, "init_seed": seed}


def learner(profile: Profile, kind: str, seed: int, tune: Callable[[str], Step], name: str = "/lora") -> Learner:
    """LoRA experts, each the step `tune` gives for a task, as the deltas that `kind` unifies."""
    if kind not in KINDS:
        raise BadInput(f"LoRA: kind: expected one of {', '.join(KINDS)}, found {kind!r}")
    base, config = experts.base_inputs(profile.model), start_config(profile, seed)
    name = f"{name}-{kind}"
    if kind == "factors":
        return Learner(name, lambda task, _: tune(task), config)
    if kind == "other-init":
        config |= {"init_seed": seed + OTHER}
        change, setting, dense = lora.rebase, config | {"true_seed": seed}, config
    else:
        change, setting, dense = lora.expand, config, {}

    def learn(task: str, _: Step | None) -> Step:
        tuned = tune(task)
        return Step(change, f"{tuned.name}/{kind}", setting, base | {"expert": tuned})

    return Learner(name, learn, dense)


def plan(profile: Profile, kind: str, seed: int, order: Sequence[str] | None = None) -> list[Step]:
    """The steps that grade ConDU on LoRA experts after each session (as `protocol.plan`)."""
    learns = learner(profile, kind, seed, lambda task: step(profile, task, seed))
    return protocol.plan(profile, "experts" if kind == "experts" else "condu-ft", seed, order, learner=learns)


def run(
    profile: Profile,
    seeds: Sequence[int] | None = None,
    order: Sequence[str] | None = None,
    kind: str = DEPLOYED,
    every: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Tidy rows like `protocol.run`'s, method as `KINDS` says: every session's accuracy, transfer, average and last.

    `every` names the seeds to grade after every session (None: all); others give last alone, at a tenth of the work.
    """
    seeds = profile.seeds if seeds is None else seeds
    plans = {(KINDS[kind], seed): plan(profile, kind, seed, order) for seed in seeds}
    kept = {key: steps if every is None or key[1] in every else steps[-1:] for key, steps in plans.items()}
    return protocol.rows(profile, kept, order)
