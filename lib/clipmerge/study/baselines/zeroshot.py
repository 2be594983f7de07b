"""What the base knows before it learns any task: its zero-shot accuracy on every dataset, beside chance."""

import pandas as pd

from clipmerge import files
from clipmerge.clip import datasets, manifests
from clipmerge.study import experts, results
from clipmerge.study.cache import store
from clipmerge.study.cache.scheduler import Progress
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import grading
from clipmerge.study.profiles import Profile


def sets(profile: Profile) -> dict[str, str]:
    """Every dataset that is graded and its group: the profile's tasks, the two extra sets, the held-out sets."""
    others = {name: group for group in ("extra", "heldout") for name in datasets.names(group)}
    return dict.fromkeys(profile.data.tasks, "tasks") | others


def step(profile: Profile, model: str) -> Step:
    """Grade one untouched model on all of `sets`."""
    config = {"model": model, "tasks": [experts.task_config(profile, name) for name in sets(profile)]}
    return Step(grading.grade_model, f"zero-shot/{experts.label(model)}", config, experts.base_inputs(model))


def run(profile: Profile, progress: Progress | None = None) -> pd.DataFrame:
    """Tidy rows: accuracy of every model of ``profile.width_models`` on every dataset, and that of guessing.

    Columns ``model`` (empty for method ``chance``) and ``group`` come on top; ``task = mean`` is the mean over the
    profile's tasks. There is no seed: nothing here is random.
    """
    groups, steps = sets(profile), {model: step(profile, model) for model in profile.width_models}
    store.build(steps.values(), profile.workers, progress)
    graded = {model: files.read_json(step.folder / grading.ACCURACY) for model, step in steps.items()}
    chance = {name: 100 / len(manifests.load(name).classes) for name in groups}
    sizes = graded[profile.width_models[0]]["n"]
    frames = [_rows(profile, groups, g["accuracy"], sizes, "zero-shot", model) for model, g in graded.items()]
    return pd.concat([*frames, _rows(profile, groups, chance, sizes, "chance", "")], ignore_index=True)


def _rows(
    profile: Profile, groups: dict[str, str], values: dict[str, float], sizes: dict[str, int], method: str, model: str
) -> pd.DataFrame:
    mean = sum(values[task] for task in profile.data.tasks) / len(profile.data.tasks)
    ordered = {name: values[name] for name in groups} | {"mean": mean}
    frame = results.rows(ordered, method=method, metric="accuracy", seed=None, n=sizes, model=model)
    return frame.assign(group=frame.task.map(groups).fillna("tasks"))
