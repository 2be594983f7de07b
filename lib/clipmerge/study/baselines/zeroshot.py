"""What the base knows before it learns any task: its zero-shot accuracy on every dataset, beside chance."""

import pandas as pd

from clipmerge.clip import datasets, manifests
from clipmerge.study import experts, results
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import grading
from clipmerge.study.profiles import Profile


def sets(profile: Profile) -> dict[str, str]:
    """Every dataset that is graded and its group: the profile's tasks, the two extra sets, the held-out sets."""
    others = {name: group for group in ("extra", "heldout") for name in datasets.names(group)}
    return dict.fromkeys(profile.data.tasks, "tasks") | others


def step(profile: Profile, model: str) -> Step:
    """Grade one untouched model on all of `sets`."""
    config = experts.config(profile, list(sets(profile)), model)
    return Step(grading.grade, f"zero-shot/{experts.label(model)}", config, experts.base_inputs(model))


def run(profile: Profile) -> pd.DataFrame:
    """Tidy rows: accuracy of every model of ``profile.width_models`` on every dataset, and that of guessing.

    Columns ``model`` (empty for method ``chance``) and ``group`` come on top; ``task = mean`` is the mean over the
    profile's tasks. There is no seed: nothing here is random.
    """
    groups = sets(profile)
    steps = {model: step(profile, model) for model in profile.width_models}
    store.build(steps.values(), profile.compute)
    graded = {model: grading.read(step.folder) for model, step in steps.items()}
    chance = {name: 100 / len(manifests.load(name).classes) for name in groups}
    sizes = graded[profile.width_models[0]][1]
    frames = [_rows(profile, groups, values, sizes, "zero-shot", model) for model, (values, _) in graded.items()]
    return pd.concat([*frames, _rows(profile, groups, chance, sizes, "chance", "")], ignore_index=True)


def _rows(
    profile: Profile, groups: dict[str, str], values: dict[str, float], sizes: dict[str, int], method: str, model: str
) -> pd.DataFrame:
    mean = sum(values[task] for task in profile.data.tasks) / len(profile.data.tasks)
    ordered = {name: values[name] for name in groups} | {"mean": mean}
    frame = results.rows(ordered, method=method, metric="accuracy", seed=None, n=sizes, model=model)
    return frame.assign(group=frame.task.map(groups).fillna("tasks"))
