"""Twenty to fifty tasks in a row (asked for by ConDU's reviewers): does decoupling still bring every task back?

All adaptation sets are cut into small tasks (`smalltasks`), each gets a short expert, and ConDU learns them one by one
(`longrun`). Rows say, for each T of ``many.marks``, how good the answers on the first T tasks are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from clipmerge import files
from clipmerge.clip import manifests
from clipmerge.study import experts, profiles, results
from clipmerge.study.cache import store
from clipmerge.study.cache.scheduler import Progress
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import longrun, smalltasks
from clipmerge.study.profiles import Profile

METHODS = longrun.METHODS


def tasks(profile: Profile, seed: int) -> tuple[smalltasks.Small, ...]:
    """The small tasks in the order of learning; another seed cuts and shuffles anew."""
    sets = (*profile.data.tasks, *profile.many.sets)
    sizes = {name: len(manifests.load(name).classes) for name in sets}
    return smalltasks.cut(sizes, profile.many.count, profile.many.smallest, seed)


def plan(profile: Profile, seed: int) -> dict[str, Step]:
    """The step that learns (``learned``) and one grading step for each method."""
    setting, model = profile.many, profile.many.model
    cards = [
        experts.task_config(profile, small.dataset) | {"name": small.name, "classes": small.classes}
        for small in tasks(profile, seed)
    ]
    recipe = replace(profiles.recipe(profile), steps=setting.steps, warmup=setting.warmup, batch=setting.batch)
    label, base = experts.label(model), experts.base_inputs(model)
    chunks = {}
    for start in range(0, len(cards), setting.chunk):
        config = {"model": model, "recipe": recipe, "tasks": cards[start : start + setting.chunk]}
        chunks[f"chunk.{start // setting.chunk:02d}"] = Step(longrun.tune, f"many/{label}/tune", config, base, seed)
    config = {"rescaler": profile.mtil.rescaler, "marks": setting.marks}
    steps = {"learned": Step(longrun.learn, f"many/{label}/learn", config, chunks)}
    for method in METHODS:
        needs = {"zero-shot": {}, "condu-ft": {"learned": steps["learned"]}}.get(method, chunks)
        asked = config | {"model": model, "method": method, "tasks": cards}
        steps[method] = Step(longrun.grade, f"many/{label}/{method}", asked, base | needs)
    return steps


def run(profile: Profile, seeds: Sequence[int] | None = None, progress: Progress | None = None) -> pd.DataFrame:
    """Tidy rows, ``session`` = T, the number of tasks learned.

    Metrics: ``accuracy`` (task by task and mean over the T tasks seen), ``kept`` and ``gain_kept`` (per cent of the
    experts' accuracy, and of their gain over the base, on the same tasks), ``first`` (mean over the tasks of the first
    mark alone: what later tasks do to early ones), ``cosine`` (with the original delta, from −1 to 1) and ``density``
    (per cent of ones in the masks), both means over tasks seen.
    """
    setting, seeds = profile.many, profile.many.seeds if seeds is None else seeds
    plans = {seed: plan(profile, seed) for seed in seeds}
    store.build([step for steps in plans.values() for step in steps.values()], profile.workers, progress)
    frames = []
    for seed, steps in plans.items():
        order = [small.name for small in tasks(profile, seed)]
        graded = {method: files.read_json(store.get(steps[method]) / longrun.GRADES) for method in METHODS}
        fixed = {"seed": seed, "model": setting.model}
        frames += _graded(graded, order, setting.marks, fixed)
        frames.append(_drifted(files.read_json(store.get(steps["learned"]) / longrun.DRIFT), fixed))
    return pd.concat(frames, ignore_index=True)


def _graded(graded: Mapping, order: Sequence[str], marks: Sequence[int], fixed: Mapping) -> list[pd.DataFrame]:
    frames = []
    for t in marks:
        found = {method: _at(about["accuracy"], t) for method, about in graded.items()}
        n = graded["experts"]["n"]
        total = sum(n[task] for task in order[:t])
        mean = {method: _mean(accuracy, order[:t]) for method, accuracy in found.items()}
        for method, accuracy in found.items():
            here = {**fixed, "method": method, "session": t}
            seen = {task: accuracy[task] for task in order[:t]}
            frames.append(results.rows(seen | {"mean": mean[method]}, metric="accuracy", n=n | {"mean": total}, **here))
            first = {"mean": _mean(accuracy, order[: marks[0]])}
            frames.append(results.rows(first, metric="first", n=sum(n[task] for task in order[: marks[0]]), **here))
            kept = {"mean": 100 * mean[method] / mean["experts"]}
            frames.append(results.rows(kept, metric="kept", n=total, **here))
            gain = {"mean": 100 * (mean[method] - mean["zero-shot"]) / (mean["experts"] - mean["zero-shot"])}
            frames.append(results.rows(gain, metric="gain_kept", n=total, **here))
    return frames


def _at(accuracy: Mapping[str, Mapping[str, float]], t: int) -> Mapping[str, float]:
    """Grades after t tasks; what never changes was graded once."""
    return accuracy.get(str(t)) or next(iter(accuracy.values()))


def _mean(accuracy: Mapping[str, float], names: Sequence[str]) -> float:
    return float(np.mean([accuracy[name] for name in names]))


def _drifted(drift: Mapping, fixed: Mapping) -> pd.DataFrame:
    found = [
        {"method": method, "metric": metric, "session": int(t), "value": scale * float(np.mean(by_metric[metric]))}
        for method, by_session in drift.items()
        for t, by_metric in by_session.items()
        for metric, scale in (("cosine", 1), ("density", 100))
    ]
    frame = pd.DataFrame(found).sort_values(["method", "metric", "session"])
    return results.tidy(frame.assign(task="mean", n=pd.NA, source="ours", **fixed))
