"""ConDU with LoRA experts, its deltas taken on the product B A or on the factors A and B by themselves.

``product``: the experts' dense deltas s · B A are unified, as those of full fine-tuning are; nothing else changes.
``factors``: A and B are unified as if they were weights of their own, and multiplied after decoupling (what the
authors' code does). ``other-init``: the same with deltas taken from another random initialisation than the one tuning
started from, an offset all tasks share (the authors' code again, which draws three; here for comparison). ``experts``
unifies nothing: what the experts themselves know.
"""

from collections.abc import Sequence

import pandas as pd

from clipmerge import files
from clipmerge.errors import BadInput
from clipmerge.study import experts, profiles, results
from clipmerge.study.cache import store
from clipmerge.study.cache.scheduler import Progress
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import adapters, grading, protocol, sessions
from clipmerge.study.experts import lora as lora_experts
from clipmerge.study.profiles import Profile

KINDS = ("product", "factors", "other-init", "experts")
DEPLOYED = "product"  # what `condu-lora` means in every table: the better one on validation images (`lora_sweep`)
OTHER = 1000  # added to a seed: the other initialisation


def step(profile: Profile, task: str, seed: int, held_out: int | None = None) -> Step:
    """The LoRA expert of `task`; gives the deltas of its factors."""
    recipe = profiles.recipe(profile, task, "lora")
    config = start_config(profile, seed) | {"recipe": recipe, "held_out": held_out, "shots": None}
    config |= experts.task_config(profile, task)
    return Step(
        lora_experts.tune,
        f"expert/lora/{experts.label(profile.model)}/{task}",
        config,
        experts.base_inputs(profile.model),
        seed,
    )


def start_config(profile: Profile, seed: int) -> dict:
    """What the initial factors depend on."""
    shape = {"rank": profile.lora.rank, "sd_a": profile.lora.sd_a, "sd_b": profile.lora.sd_b}
    return {"model": profile.model, "lora": shape, "init_seed": seed}


def prepared(profile: Profile, kind: str, seed: int, tuned: Sequence[Step]) -> list[Step]:
    """LoRA experts as the deltas that `kind` unifies."""
    if kind not in KINDS:
        raise BadInput(f"LoRA: kind: expected one of {', '.join(KINDS)}, found {kind!r}")
    base, config = experts.base_inputs(profile.model), start_config(profile, seed)
    if kind == "factors":
        return list(tuned)
    if kind in ("product", "experts"):
        return [Step(adapters.expand, f"{one.name}/product", config, base | {"expert": one}) for one in tuned]
    config |= {"init_seed": seed + OTHER, "true_seed": seed}
    return [Step(adapters.rebase, f"{one.name}/other", config, base | {"expert": one}) for one in tuned]


def plan(profile: Profile, kind: str, seed: int, order: Sequence[str] | None = None) -> list[Step]:
    """The steps that grade ConDU on LoRA experts after each session (as `protocol.plan`)."""
    order = tuple(order or profiles.order(profile))
    known = prepared(profile, kind, seed, [step(profile, task, seed) for task in order])
    name = f"condu-lora/{kind}/{experts.label(profile.model)}"
    dense = kind in ("product", "experts")
    config = {} if dense else start_config(profile, seed + OTHER * (kind == "other-init"))
    config |= {"model": profile.model, "tasks": [experts.task_config(profile, task) for task in order]}
    inputs = {"reading": protocol.reading(profile, order)} | experts.base_inputs(profile.model)
    grade = grading.grade_bank if dense else adapters.grade_factors
    kept = sessions.build("experts" if kind == "experts" else "condu-ft", name, known, profile.mtil.rescaler)
    asked = [config | {"k": profile.mtil.k, "seen": t + 1} for t in range(len(kept))]
    return [Step(grade, f"grade/{name}/{t + 1:02d}", asked[t], inputs | session) for t, session in enumerate(kept)]


def run(
    profile: Profile,
    seeds: Sequence[int] | None = None,
    order: Sequence[str] | None = None,
    progress: Progress | None = None,
    kind: str = DEPLOYED,
    every: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Tidy rows like `protocol.run`'s, method ``condu-lora``: every session's accuracy, transfer, average and last.

    `every` names the seeds to grade after every session (None: all); others give last alone, at a tenth of the work.
    """
    order, seeds = tuple(order or profiles.order(profile)), profile.seeds if seeds is None else seeds
    plans = {seed: plan(profile, kind, seed, order) for seed in seeds}
    plans = {seed: steps if every is None or seed in every else steps[-1:] for seed, steps in plans.items()}
    store.build([one for steps in plans.values() for one in steps], profile.workers, progress)
    frames = []
    for seed, steps in plans.items():
        sizes = files.read_json(steps[0].folder / grading.ACCURACY)["n"]
        a = protocol.matrix(steps, order)
        fixed = {"method": "condu-lora", "seed": seed, "n": sizes, "model": profile.model}
        if len(a) == len(order):
            frames += [results.matrix_rows(a, order, **fixed), results.mtil_rows(a, order, **fixed)]
            continue
        values = dict(zip(order, a[-1].tolist(), strict=True))
        frames.append(results.rows(results.with_mean(values), metric="last", **fixed))
    return pd.concat(frames, ignore_index=True)
