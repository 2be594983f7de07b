"""How small can a trigger be? Codes that lose nothing, and smaller triggers that cost accuracy (reviewers R1 and R3).

Everything starts from ConDU's last session on the profile's tasks, which `protocol` has left in the cache.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from clipmerge import files
from clipmerge.clip import models
from clipmerge.study import experts, profiles, results
from clipmerge.study.analysis import mask_coding, mask_compression, resources
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import grading, protocol
from clipmerge.study.profiles import Profile

BOUNDS = ("entropy", "entropy by tensor", "entropy given |u|", "joint")  # what no code of that knowledge can beat
CODES = (*BOUNDS, "packed", "packed where u ≠ 0", "run-length", "zlib", "zlib where u ≠ 0", "lzma")
WHOLE = {"zero-shot": "none", "experts": "expert", "condu-ft": "packed"}  # method → what a task keeps


def smaller(profile: Profile) -> dict[str, dict]:
    """The smaller triggers that are tried, by name: their kind and its value."""
    kept = {f"keep {value:g}": {"kind": "keep", "value": value} for value in profile.triggers.keep}
    shared = {f"share {groups}": {"kind": "share", "value": groups} for groups in profile.triggers.groups}
    blocks = ("row bit", "tensor bit", "row gain", "tensor gain")
    return kept | shared | {name: {"kind": name, "value": 0} for name in blocks}


def plan(profile: Profile, seed: int) -> dict[str, Step]:
    """One grading step for each of `smaller`, and the step ``codes`` that measures the masks as they are."""
    label = f"triggers/{experts.label(profile.model)}"
    session = {"session": protocol.kept(profile, "condu-ft", seed)[-1]}
    inputs = experts.base_inputs(profile.model) | session
    steps = {"codes": Step(mask_coding.measure, f"{label}/codes", {}, session)}
    for name, how in smaller(profile).items():
        config = experts.config(profile, profiles.order(profile)) | how
        steps[name] = Step(mask_compression.grade, f"{label}/{name.replace(' ', '-')}", config, inputs)
    return steps


def run(profile: Profile, seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """Tidy rows with ``trigger`` (what a task keeps) and ``value`` of metric ``last`` (%) or ``bytes`` (a task).

    Triggers: ``packed`` (one bit a coordinate), the codes, the smaller kinds, ``expert`` (its whole delta) and ``none``
    (the base); metric ``density`` is the per cent of ones.
    """
    seeds = profile.seeds if seeds is None else seeds
    plans = {seed: plan(profile, seed) for seed in seeds}
    store.build([step for steps in plans.values() for step in steps.values()], profile.compute)
    whole = protocol.last(profile, tuple(WHOLE), profile.model, seeds)
    names = whole.method.map(WHOLE)
    frames = [whole.assign(trigger=names, kind=names)]
    state = models.create(profile.model).state_dict()
    expert = resources.expert(tensor.numel() for tensor in state.values() if tensor.is_floating_point())
    for seed, steps in plans.items():
        fixed = {"method": "condu-ft", "seed": seed, "model": profile.model}
        for name, size in (("none", 0.0), ("expert", float(expert))):
            frames.append(results.rows({"mean": size}, metric="bytes", trigger=name, kind=name, **fixed))
        codes = files.read_json(steps["codes"].folder / mask_coding.CODES)
        frames += _coded(codes, profiles.order(profile), fixed)
        for name, how in smaller(profile).items():
            accuracy, sizes = grading.read(steps[name].folder)
            size = files.read_json(steps[name].folder / mask_compression.SIZE)["bytes"]
            columns = {"trigger": name, "kind": how["kind"], **fixed}
            frames.append(results.rows(results.with_mean(accuracy), metric="last", n=sizes, **columns))
            frames.append(results.rows({"mean": float(size)}, metric="bytes", **columns))
    return pd.concat(frames, ignore_index=True)


def _coded(found: Mapping, order: Sequence[str], fixed: Mapping) -> list[pd.DataFrame]:
    """Bytes of every task's mask under every code, and their mean; density of the masks."""
    frames = []
    for code in CODES:
        values = {"mean": found["joint"]}
        if code != "joint":
            values = results.with_mean(dict(zip(order, found["bytes"][code], strict=True)))
        frames.append(results.rows(values, metric="bytes", trigger=code, kind="code", **fixed))
    density = {task: 100 * share for task, share in zip(order, found["density"], strict=True)}
    frames.append(results.rows(density, metric="density", trigger="packed", kind="code", **fixed))
    return frames
