"""Inside ConDU: ablations (Table 5), parity of numbers (Table 6), features (Figure 5), Appendix G's premises, as rows.

Every function plans cached steps for the profile's order of tasks, builds what is missing, and returns tidy rows.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace

import pandas as pd
from torch import Tensor

from clipmerge import files
from clipmerge.errors import BadInput
from clipmerge.study import experts, profiles, results
from clipmerge.study.analysis import ablations, drift, numerics, rules, similarity
from clipmerge.study.cache import store
from clipmerge.study.cache.scheduler import Progress
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import grading, protocol, sessions
from clipmerge.study.profiles import Profile

# Of one merged model nothing can be tuned here: the experts have seen every training image. Scales are published ones.
TECHNIQUES: Mapping[str, Mapping[str, float]] = {
    "ties": {"keep": 0.2, "scale": 1.0},  # arXiv 2306.01708
    "task_arithmetic": {"scale": 0.3},  # arXiv 2212.04089: 0.3 to 0.5 for many tasks
    "magmax": {"scale": 0.5},  # arXiv 2407.06322
    "fisher": {},
}
REFERENCES = ("zero-shot", "experts", "emr", "condu-ft", "average")  # graded for Table 1 already
RATIOS = ("cosine", "relative_l2", "rescaler", "magnitude", "gained", "moved", "cka")  # metrics not in per cent


def _tuned(profile: Profile, seed: int) -> list[Step]:
    return [experts.step(profile, task, seed) for task in profiles.order(profile)]


def _kept(profile: Profile, method: str, seed: int) -> list[Step]:
    """The sessions of ``condu-ft`` or ``emr``: the steps that `protocol` grades."""
    name = f"{method}/{experts.label(profile.model)}"
    return [kept["session"] for kept in sessions.build(method, name, _tuned(profile, seed), profile.mtil.rescaler)]


def _config(profile: Profile) -> dict:
    return {"model": profile.model, "tasks": [experts.task_config(profile, task) for task in profiles.order(profile)]}


def ablation_step(profile: Profile, name: str, seed: int) -> Step:
    """The step that grades one rule of `rules.RULES`, or one technique that merges all experts into one model."""
    tuned, config = sessions.numbered(_tuned(profile, seed)), _config(profile)
    base, label = experts.base_inputs(profile.model), name.replace("=", "-").replace(" ", "+")
    if name in rules.RULES:
        rule = rules.RULES[name]
        rule = rule if "rescaler=" in name else replace(rule, rescaler=profile.mtil.rescaler)
        return Step(ablations.grade_rule, f"inside/rule/{label}", config | {"rule": asdict(rule)}, base | tuned)
    if name not in TECHNIQUES:
        raise BadInput(f"ablation: expected one of {', '.join([*rules.RULES, *TECHNIQUES])}; found {name!r}")
    if name == "fisher":
        asked = config | {"batches": profile.inside.fisher_batches, "batch": profile.finetune.batch}
        merged = Step(ablations.merge_by_fisher, f"inside/merge/{label}", asked, base | tuned, seed)
    else:
        asked = {"model": profile.model, "technique": name, "options": TECHNIQUES[name]}
        merged = Step(ablations.merge, f"inside/merge/{label}", asked, base | tuned)
    return Step(grading.grade_model, f"inside/grade/{label}", config, base | {"model": merged})


def ablate(profile: Profile, progress: Progress | None = None) -> pd.DataFrame:
    """Table 5: accuracy on every task after the last session (metric ``last``), by rule or technique, task and seed."""
    names = [*profile.inside.rules, *profile.inside.techniques]
    steps = {(name, seed): ablation_step(profile, name, seed) for name in names for seed in profile.seeds}
    store.build(steps.values(), profile.workers, progress)
    frames = [protocol.last(profile, REFERENCES, profile.model, profile.seeds, progress)]
    for (name, seed), step in steps.items():
        graded = files.read_json(step.folder / ablations.ACCURACY)
        fixed = {"method": name, "metric": "last", "seed": seed, "model": profile.model}
        frames.append(results.rows(results.with_mean(graded["accuracy"]), n=graded["n"], **fixed))
    return pd.concat(frames, ignore_index=True)


def compare_ways(profile: Profile, progress: Progress | None = None) -> pd.DataFrame:
    """Table 6: what changes if the same numbers are computed in another of `numerics.WAYS` (column ``way``)."""
    tasks = [
        (profiles.order(profile).index(task), experts.task_config(profile, task)) for task in profile.inside.parity
    ]
    steps = {}
    for way, seed in ((way, seed) for way in numerics.WAYS for seed in profile.seeds):
        config = {"model": profile.model, "tasks": tasks, "way": numerics.WAYS[way], "repeat": way}
        inputs = experts.base_inputs(profile.model) | {"session": _kept(profile, "condu-ft", seed)[-1]}
        steps[way, seed] = Step(numerics.read, f"inside/parity/{way}", config, inputs)
    store.build(steps.values(), 1, progress)  # one after the other: a step starts processes of its own
    frames = []
    for (way, seed), step in steps.items():
        one, other = (files.load_tensors(s.folder / numerics.LOGITS) for s in (steps["fp32", seed], step))
        for task in profile.inside.parity:
            labels = experts.dataset(experts.task_config(profile, task)).test_labels
            fixed = {"method": "condu-ft", "seed": seed, "n": len(labels), "model": profile.model, "way": way}
            for metric, value in numerics.compare(one[task], other[task], labels).items():
                frames.append(results.rows({task: value}, metric=metric, **fixed))
    return pd.concat(frames, ignore_index=True)


def _seen(profile: Profile, seed: int) -> Step:
    inputs = experts.base_inputs(profile.model) | sessions.numbered(_tuned(profile, seed))
    inputs |= {"condu": _kept(profile, "condu-ft", seed)[-1], "emr": _kept(profile, "emr", seed)[-1]}
    return Step(similarity.see, "inside/see", _config(profile) | {"images": profile.inside.images}, inputs)


def liken(profile: Profile, progress: Progress | None = None) -> pd.DataFrame:
    """Figure 5 in numbers: ``cka`` and mean ``cosine`` of own-task features with those of the original expert."""
    steps = {seed: _seen(profile, seed) for seed in profile.seeds}
    store.build(steps.values(), profile.workers, progress)
    records = []
    for seed, step in steps.items():
        tensors = files.load_tensors(step.folder / similarity.FEATURES)
        for (who, task), values in similarity.likenesses(tensors, profiles.order(profile)).items():
            fixed = {"method": who, "task": task, "seed": seed, "n": len(tensors[f"labels.{task}"]), "source": "ours"}
            records += [fixed | {"metric": m, "value": v} for m, v in zip(("cka", "cosine"), values, strict=True)]
    return results.tidy(pd.DataFrame(records).assign(model=profile.model))


def maps(profile: Profile, seed: int, progress: Progress | None = None) -> dict[str, dict[str, Tensor]]:
    """Figure 5: for each drawn task the t-SNE places [n, 2] of the same images under both experts, and their labels."""
    features, steps = _seen(profile, seed), {}
    for task in profile.inside.drawn:
        config = {"task": task, "classes": profile.inside.drawn_classes}
        steps[task] = Step(similarity.embed, f"inside/map/{task}", config, {"features": features})
    store.build(steps.values(), profile.workers, progress)
    return {task: files.load_tensors(step.folder / similarity.MAP) for task, step in steps.items()}


def _drift(profile: Profile, seed: int) -> Step:
    inputs = sessions.numbered(_tuned(profile, seed))
    for which, method in (("condu", "condu-ft"), ("emr", "emr")):
        inputs |= {f"{which}.{t:02d}": step for t, step in enumerate(_kept(profile, method, seed))}
    return Step(drift.measure, "inside/drift", {"rounds": profile.inside.rounds}, inputs)


def measure_drift(profile: Profile, progress: Progress | None = None) -> pd.DataFrame:
    """Appendix G: what happens to u, masks, rescalers and reconstructions in every session.

    Columns ``session`` and ``age`` (sessions since the task was learned) on top. Rates are in per cent, the metrics of
    `RATIOS` are not; rows of a session as a whole have ``task = mean``, and ``pairs`` says out of how many.
    """
    steps = {seed: _drift(profile, seed) for seed in profile.seeds}
    store.build(steps.values(), profile.workers, progress)
    order, records = profiles.order(profile), []
    for seed, step in steps.items():
        found = files.read_json(step.folder / drift.DRIFT)
        for row in (row for record in found["sessions"] for row in _session_rows(record)):
            records.append(row | {"method": "condu-ft", "task": "mean", "seed": seed})
        for record in found["tasks"]:
            task = order[record["number"]]
            records += [row | {"task": task, "seed": seed} for row in _task_rows(record)]
        for which, share in found["signs"].items():
            records.append(_row("experts", f"same_sign_{which}", 100 * share, len(order)) | {"seed": seed})
        for turn, change in enumerate(found["settle"], start=1):
            records.append(_row("condu-ft", "settle", change, len(order)) | {"seed": seed, "age": turn})
    frame = pd.DataFrame(records).fillna({"task": "mean"}).assign(n=pd.NA, source="ours", model=profile.model)
    return results.tidy(frame.astype({"session": "Int64", "age": "Int64", "pairs": "Int64"}))


def _row(method: str, metric: str, value: float, session: int) -> dict:
    return {"method": method, "metric": metric, "value": value, "session": session}


def _session_rows(record: Mapping) -> list[dict]:
    if "flips" not in record:
        return []  # nothing precedes the first session
    session, pairs = record["session"], record["pairs"]
    rows = [_row("condu-ft", "sign_flips", 100 * record["flips"], session)]
    rows.append(_row("condu-ft", "moved", record["moved"], session))
    if pairs:
        swapped = _row("condu-ft", "rescaler_swaps", 100 * record["swapped"] / pairs, session)
        rows.append(swapped | {"pairs": pairs})
    return rows


def _task_rows(record: Mapping) -> list[dict]:
    session = record["session"]
    rows = [_row(m, metric, v, session) for m in ("condu-ft", "emr") for metric, v in record[m].items()]
    rows += [_row("condu-ft", metric, record[metric], session) for metric in ("rescaler", "magnitude", "gained")]
    rows.append(_row("condu-ft", "mask_density", 100 * record["density"], session))
    rows.append(_row("emr", "mask_density", 100 * record["density_emr"], session))
    return [row | {"age": session - 1 - record["number"]} for row in rows]
