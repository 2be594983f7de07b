"""How the learning rate of LoRA, and the kind of delta ConDU takes from it, were chosen: on validation images.

    python -m clipmerge.study.tuning.lora --rates 3e-3 1e-2 3e-2     # writes data_manifests/tuning/laptop_lora.csv

As `search`, on some tasks and one seed: a fifth of the training images is held out; experts are tuned on the rest and
graded there as they are, and decoupled after the last session, once for each kind of delta.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from clipmerge.study import experts
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import adapters, sessions
from clipmerge.study.condu import lora as condu_lora
from clipmerge.study.profiles import Profile
from clipmerge.study.tuning import search

TASKS = ("animals", "digits", "food", "kanji", "surfaces")
KINDS = ("product", "factors")


def plan(profile: Profile, rate: float, tasks: Sequence[str] = TASKS, seed: int = 0) -> dict[str, Step]:
    """Grading steps for one learning rate: ``experts`` and the two kinds of ConDU."""
    trial = replace(profile, lora=replace(profile.lora, lr=rate, lr_by_task={}))
    tuned = [condu_lora.step(trial, task, seed, held_out=search.HELD_OUT) for task in tasks]
    config = {"model": trial.model, "tasks": [experts.task_config(trial, task) for task in tasks]}
    base = experts.base_inputs(trial.model)
    dense = condu_lora.prepared(trial, "product", seed, tuned)
    grades = {"experts": Step(search.grade, "sweep/lora/experts", config, base | sessions.numbered(dense))}
    for kind in KINDS:
        known = condu_lora.prepared(trial, kind, seed, tuned)
        kept = sessions.build("condu-ft", f"sweep/lora/{kind}", known, trial.mtil.rescaler)[-1]
        asked = config | ({} if kind == "product" else condu_lora.start_config(trial, seed) | {"seen": len(tasks)})
        grades[f"condu-lora ({kind})"] = Step(grade, f"sweep/lora/{kind}", asked, base | kept)
    return grades


def grade(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: `search.grade` for a session that unified products or, if the config has ``lora``, factors."""
    if "lora" not in config:
        search.grade(out, config=config, inputs=inputs, seed=seed)
        return
    with adapters.multiplied(config, inputs["session"], config["seen"]) as folders:
        search.grade(out, config=config, inputs=folders, seed=seed)


def run(profile: Profile, rates: Sequence[float], tasks: Sequence[str] = TASKS) -> pd.DataFrame:
    """Validation accuracy by method, task and rate, as tidy rows."""
    return search.gather(profile, {rate: plan(profile, rate, tasks) for rate in rates}, rank=profile.lora.rank)


if __name__ == "__main__":
    from clipmerge.study.tuning import lora

    search.command(lora.run, "LoRA's learning rate", "_lora")
