"""What ConDU costs (its Appendix I): seconds and bytes against the number of tasks, and asking K experts at once.

Seconds are measured by cached steps (`timing`): one machine, once. Bytes follow from shapes (`storage`).
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from clipmerge import files
from clipmerge.clip import manifests, models
from clipmerge.study import experts, profiles, results
from clipmerge.study.analysis import storage, timing, triggers
from clipmerge.study.cache import store
from clipmerge.study.cache.scheduler import Progress
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import sessions
from clipmerge.study.profiles import Profile


def plan(profile: Profile, seed: int) -> dict[str, Step]:
    """The three steps that measure; asking is timed over the classes of the first task."""
    order, setting, label = profiles.order(profile), profile.cost, experts.label(profile.model)
    tasks = [experts.task_config(profile, task) for task in order]
    base = experts.base_inputs(profile.model)
    shared = {"model": profile.model, "repeats": setting.repeats}
    tuned = sessions.numbered([experts.step(profile, task, seed) for task in order])
    tune = shared | {"recipe": profiles.recipe(profile), "steps": setting.steps, "tasks": tasks}
    ask = shared | {"batches": setting.batches, "k": setting.k, "task": tasks[0]}
    merge = {"repeats": setting.repeats, "rescaler": profile.mtil.rescaler}
    session = {"session": triggers.last_session(profile, seed)}
    return {
        "tuning": Step(timing.tuning, f"cost/{label}/tuning", tune, base),
        "merging": Step(timing.merging, f"cost/{label}/merging", merge, tuned),
        "asking": Step(timing.asking, f"cost/{label}/asking", ask, base | session),
    }


def run(profile: Profile, seed: int = 0, progress: Progress | None = None) -> pd.DataFrame:
    """Tidy rows. Metrics ``seconds`` and ``bytes``, ``part`` says of what.

    ``tune`` (by task: seconds of a step × steps of the recipe), ``extend`` (decouple and unify, session by session),
    ``decouple`` (all tasks of a session), ``store`` (bytes after each session: methods ``condu-ft``, ``experts``), and
    ``ask`` with columns ``way, batch, k``.
    """
    steps = plan(profile, seed)
    store.build([steps["merging"].inputs[name] for name in sorted(steps["merging"].inputs)], profile.workers, progress)
    store.build(steps.values(), 1, progress)  # one at a time: they measure
    found = {name: files.read_json(step.folder / timing.TIMES) for name, step in steps.items()}
    fixed = {"seed": seed, "model": profile.model}
    frames = [_tuning(found["tuning"], profile.finetune.steps, fixed), _merging(found["merging"], fixed)]
    frames += [_asking(found["asking"], fixed), _stored(profile, fixed)]
    return pd.concat(frames, ignore_index=True)


def share(rows: pd.DataFrame) -> pd.Series:
    """Decouple and unify as per cent of tuning, by session: ``extend`` of session t over the tuning of its task."""
    tune = rows[(rows.part == "tune") & (rows.task != "mean")].value.to_numpy()
    extend = rows[rows.part == "extend"].set_index("session").value
    return 100 * extend / tune


def _tuning(found: Mapping, steps: int, fixed: Mapping) -> pd.DataFrame:
    values = {task: steps * seconds for task, seconds in found["seconds_per_step"].items()}
    mean = sum(values.values()) / len(values)
    about = {"method": "condu-ft", "metric": "seconds", "part": "tune", **fixed}
    return results.rows(values | {"mean": mean}, **about)


def _merging(found: Mapping, fixed: Mapping) -> pd.DataFrame:
    rows = [
        {"part": part, "session": t, "value": value}
        for part in ("extend", "decouple")
        for t, value in enumerate(found[part], start=1)
    ]
    return _tidy(rows, fixed, method="condu-ft", metric="seconds")


def _asking(found: Sequence[Mapping], fixed: Mapping) -> pd.DataFrame:
    rows = [
        {"part": "ask", "way": at["way"], "batch": at["batch"], "k": at["k"], "metric": metric, "value": at[metric]}
        for at in found
        for metric in ("seconds", "bytes")
    ]
    return _tidy(rows, fixed, method="condu-ft")


def _stored(profile: Profile, fixed: Mapping) -> pd.DataFrame:
    model = models.create(profile.model)
    sizes = [tensor.numel() for tensor in model.state_dict().values() if tensor.is_floating_point()]
    classes, dim, rows = 0, model.visual.output_dim, []
    for t, task in enumerate(profiles.order(profile), start=1):
        classes += len(manifests.load(task).classes)
        kept = storage.prototypes(classes, dim)
        rescalers = storage.FLOAT * t
        rows.append({"session": t, "method": "condu-ft", "value": storage.condu(sizes, t) + rescalers + kept})
        rows.append({"session": t, "method": "experts", "value": t * storage.expert(sizes) + kept})
    return _tidy(rows, fixed, part="store", metric="bytes")


def _tidy(rows: Sequence[Mapping], fixed: Mapping, **more: str) -> pd.DataFrame:
    return results.tidy(pd.DataFrame(rows).assign(task="mean", n=pd.NA, source="ours", **fixed, **more))
