"""How small can a trigger be? Codes that lose nothing, and leaner triggers that cost accuracy (reviewers R1 and R3).

Everything starts from ConDU's last session on the profile's tasks, which `protocol` has left in the cache.
"""

from collections.abc import Sequence

import pandas as pd

from clipmerge import files
from clipmerge.clip import models
from clipmerge.study import experts, profiles, results
from clipmerge.study.analysis import mask_coding, mask_compression, storage
from clipmerge.study.cache import store
from clipmerge.study.cache.scheduler import Progress
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import protocol, sessions
from clipmerge.study.profiles import Profile

BOUNDS = ("entropy", "entropy by tensor", "entropy given |u|", "joint")  # what no code of that knowledge can beat
CODES = (*BOUNDS, "packed", "packed where u ≠ 0", "run-length", "zlib", "zlib where u ≠ 0", "lzma")


def last_session(profile: Profile, seed: int) -> Step:
    """ConDU's state after the last task; the same step that `protocol` grades."""
    tuned = [experts.step(profile, task, seed) for task in profiles.order(profile)]
    name = f"condu-ft/{experts.label(profile.model)}"
    return sessions.build("condu-ft", name, tuned, profile.mtil.rescaler)[-1]["session"]


def kinds(profile: Profile) -> list[tuple[str, float]]:
    """The leaner triggers that are tried: (kind, value)."""
    kept = [("keep", value) for value in profile.triggers.keep]
    shared = [("share", float(value)) for value in profile.triggers.groups]
    return [*kept, *shared, *((f"{unit} {what}", 0.0) for what in ("bit", "gain") for unit in ("row", "tensor"))]


def plan(profile: Profile, seed: int) -> dict[tuple[str, float] | str, Step]:
    """One grading step for each of `kinds`, and the step ``codes`` that measures the masks as they are."""
    session, label = last_session(profile, seed), experts.label(profile.model)
    tasks = [experts.task_config(profile, task) for task in profiles.order(profile)]
    steps: dict = {"codes": Step(mask_coding.measure, f"triggers/{label}/codes", {}, {"session": session})}
    for kind, value in kinds(profile):
        config = {"model": profile.model, "tasks": tasks, "kind": kind, "value": value}
        inputs = experts.base_inputs(profile.model) | {"session": session}
        name = f"triggers/{label}/{kind.replace(' ', '-')}"
        steps[kind, value] = Step(mask_compression.grade, f"{name}-{value:g}" if value else name, config, inputs)
    return steps


def run(profile: Profile, seeds: Sequence[int] | None = None, progress: Progress | None = None) -> pd.DataFrame:
    """Tidy rows with ``trigger`` (what a task keeps) and ``value`` of metric ``last`` (%) or ``bytes`` (a task).

    Triggers: ``packed`` (one bit a coordinate), the codes, the leaner kinds, ``expert`` (its whole delta) and ``none``
    (the base); metric ``density`` is the per cent of ones.
    """
    seeds = profile.seeds if seeds is None else seeds
    plans = {seed: plan(profile, seed) for seed in seeds}
    store.build([step for steps in plans.values() for step in steps.values()], profile.workers, progress)
    known = protocol.last(profile, ("zero-shot", "experts", "condu-ft"), profile.model, seeds, progress)
    names = {"zero-shot": "none", "experts": "expert", "condu-ft": "packed"}
    frames = [known.assign(trigger=known.method.map(names), kind=known.method.map(names))]
    sizes = [t.numel() for t in models.create(profile.model).state_dict().values() if t.is_floating_point()]
    for seed, steps in plans.items():
        fixed = {"seed": seed, "model": profile.model}
        whole = {"none": 0, "expert": storage.expert(sizes)}
        frames += [_size(trigger, size, method="condu-ft", **fixed) for trigger, size in whole.items()]
        frames += _codes(files.read_json(store.get(steps["codes"]) / mask_coding.CODES), profiles.order(profile), fixed)
        for kind, value in kinds(profile):
            graded = files.read_json(store.get(steps[kind, value]) / mask_compression.GRADES)
            trigger = f"{kind} {value:g}" if value else kind
            n = known.drop_duplicates("task").set_index("task").n.dropna().astype(int).to_dict()
            about = {"method": "condu-ft", "trigger": trigger, "kind": kind, **fixed}
            frames.append(results.rows(results.with_mean(graded["accuracy"]), metric="last", n=n, **about))
            frames.append(_size(trigger, graded["bytes"], **{"kind": kind, "method": "condu-ft"}, **fixed))
    return pd.concat(frames, ignore_index=True)


def _size(trigger: str, size: float, **fixed: object) -> pd.DataFrame:
    about = {"kind": trigger, **fixed, "trigger": trigger}
    return results.rows({"mean": float(size)}, metric="bytes", **about)


def _codes(found: dict, order: Sequence[str], fixed: dict) -> list[pd.DataFrame]:
    """Bytes of every task's mask under every code, and their mean; for an entropy, what an ideal code would take."""
    count = found["coordinates"]
    frames = []
    for code in CODES:
        if code == "joint":
            by_task = {}
            mean = found["joint"] * count / 8
        else:
            by_task = {name: _bytes(task, code, count) for name, task in zip(order, found["tasks"], strict=True)}
            mean = sum(by_task.values()) / len(by_task)
        about = {"method": "condu-ft", "trigger": code, "kind": "code", **fixed}
        frames.append(results.rows(by_task | {"mean": mean}, metric="bytes", **about))
    density = {name: 100 * task["bits"]["density"] for name, task in zip(order, found["tasks"], strict=True)}
    about = {"method": "condu-ft", "trigger": "packed", "kind": "code", **fixed}
    frames.append(results.rows(density, metric="density", **about))
    return frames


def _bytes(task: dict, code: str, count: int) -> float:
    return float(task["bytes"][code]) if code in task["bytes"] else task["bits"][code] * count / 8
