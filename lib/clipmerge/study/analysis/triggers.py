"""How small can a trigger be? Codes that lose nothing, and smaller triggers that cost accuracy (reviewers R1 and R3).

Everything starts from ConDU's last session on the profile's tasks, which `protocol` has left in the cache.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from clipmerge import files
from clipmerge.clip import models
from clipmerge.study import experts, profiles, results
from clipmerge.study.analysis import learned, mask_coding, mask_compression, resources
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import protocol
from clipmerge.study.profiles import Profile

BOUNDS = ("entropy", "entropy by tensor", "entropy given |u|", "joint")  # what no code of that knowledge can beat
CODES = (*BOUNDS, "packed", "packed where u ≠ 0", "run-length", "zlib", "zlib where u ≠ 0", "lzma")
WHOLE = {"zero-shot": "none", "experts": "expert", "condu-ft": "packed"}  # method → what a task keeps


def kinds(profile: Profile) -> list[tuple[str, float]]:
    """The smaller triggers that are tried: (kind, value)."""
    kept = [("keep", value) for value in profile.triggers.keep]
    shared = [("share", float(value)) for value in profile.triggers.groups]
    return [*kept, *shared, *((f"{unit} {what}", 0.0) for what in ("bit", "gain") for unit in ("row", "tensor"))]


def plan(profile: Profile, seed: int) -> dict[tuple[str, float] | str, Step]:
    """One grading step for each of `kinds`, and the step ``codes`` that measures the masks as they are."""
    label = f"triggers/{experts.label(profile.model)}"
    session = {"session": learned.kept(profile, "condu-ft", seed)[-1]}
    inputs = experts.base_inputs(profile.model) | session
    steps: dict = {"codes": Step(mask_coding.measure, f"{label}/codes", {}, session)}
    for kind, value in kinds(profile):
        config = learned.tasks(profile) | {"kind": kind, "value": value}
        steps[kind, value] = Step(mask_compression.grade, f"{label}/{_name(kind, value, '-')}", config, inputs)
    return steps


def run(profile: Profile, seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """Tidy rows with ``trigger`` (what a task keeps) and ``value`` of metric ``last`` (%) or ``bytes`` (a task).

    Triggers: ``packed`` (one bit a coordinate), the codes, the smaller kinds, ``expert`` (its whole delta) and ``none``
    (the base); metric ``density`` is the per cent of ones.
    """
    seeds = profile.seeds if seeds is None else seeds
    plans = {seed: plan(profile, seed) for seed in seeds}
    store.build([step for steps in plans.values() for step in steps.values()], profile.workers)
    whole = protocol.last(profile, tuple(WHOLE), profile.model, seeds)
    names = whole.method.map(WHOLE)
    frames = [whole.assign(trigger=names, kind=names)]
    state = models.create(profile.model).state_dict()
    expert = resources.expert(tensor.numel() for tensor in state.values() if tensor.is_floating_point())
    for seed, steps in plans.items():
        fixed = {"method": "condu-ft", "seed": seed, "model": profile.model}
        for trigger, size in (("none", 0), ("expert", expert)):
            frames.append(_bytes({"mean": float(size)}, kind=trigger, trigger=trigger, **fixed))
        coded = files.read_json(steps["codes"].folder / mask_coding.CODES)
        frames += _coded(coded, profiles.order(profile), fixed)
        for kind, value in kinds(profile):
            graded = files.read_json(steps[kind, value].folder / mask_compression.GRADES)
            about = {"trigger": _name(kind, value), "kind": kind, **fixed}
            frames.append(results.rows(results.with_mean(graded["accuracy"]), metric="last", n=graded["n"], **about))
            frames.append(_bytes({"mean": float(graded["bytes"])}, **about))
    return pd.concat(frames, ignore_index=True)


def _name(kind: str, value: float, space: str = " ") -> str:
    return (f"{kind} {value:g}" if value else kind).replace(" ", space)


def _bytes(values: Mapping[str, float], **fixed: object) -> pd.DataFrame:
    return results.rows(values, metric="bytes", **fixed)


def _coded(coded: Mapping, order: Sequence[str], fixed: Mapping) -> list[pd.DataFrame]:
    """Bytes of every task's mask under every code, and their mean; for an entropy, what an ideal code would take."""
    count = coded["coordinates"] / 8
    masks = dict(zip(order, coded["tasks"], strict=True))
    frames = []
    for code in CODES:
        if code == "joint":
            values = {"mean": coded["joint"] * count}
        elif code in BOUNDS:
            values = results.with_mean({task: mask["bits"][code] * count for task, mask in masks.items()})
        else:
            values = results.with_mean({task: float(mask["bytes"][code]) for task, mask in masks.items()})
        frames.append(_bytes(values, trigger=code, kind="code", **fixed))
    density = {task: 100 * mask["bits"]["density"] for task, mask in masks.items()}
    frames.append(results.rows(density, metric="density", trigger="packed", kind="code", **fixed))
    return frames
