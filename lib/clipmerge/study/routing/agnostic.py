"""Table 2: accuracy when nobody says which task an image is from, in the label space of its task and of all tasks.

The last session is a panel (`ensemble`) and takes matrix products. The sessions before it, which Average needs, take a
step each, for the seeds that the profile names. Baselines (``inference.baselines``) are never told the task: what the
protocol has graded is read in the other label spaces.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd
from torch import Tensor

from clipmerge.study import experts, profiles, results
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import contract, features, grading, protocol, voting
from clipmerge.study.condu.panel import Panel
from clipmerge.study.profiles import Profile
from clipmerge.study.routing import ensemble

METHODS = ("zero-shot", "average", "experts", "condu-ft")


def averages(profile: Profile, seed: int) -> list[Step]:
    """How the average of all experts so far sees the test images, session after session."""
    order = profiles.order(profile)
    return [features.of_model(profile, kept, order) for kept in protocol.kept(profile, "average", seed)]


def earlier(profile: Profile, method: str, seed: int) -> list[Step]:
    """Grades of the sessions before the last: nobody says which task an image is from, in each label space.

    Under the authors' rule, and under the one with a radius beside it.
    """
    order = profiles.order(profile)
    rules = {"k": profile.mtil.k, grading.RADIUS: asdict(profile.inference.radius)}
    config = experts.config(profile, order) | rules | {"known": False, "spaces": list(voting.SPACES)}
    fixed = experts.base_inputs(profile.model) | {"features": ensemble.base_step(profile)}
    found = []
    for t, kept in enumerate(protocol.kept(profile, method, seed)[:-1], start=1):
        label = f"agnostic/{method}/{experts.label(profile.model)}/{t:02d}"
        found.append(Step(grading.grade, label, config | {"seen": t}, fixed | {"session": kept}))
    return found


def baselines(profile: Profile, seed: int) -> list[str]:
    """The profile's baselines that there are for this seed: a chain of trainings has few seeds."""
    few = profile.baselines.seeds
    return [name for name in profile.inference.baselines if seed in few or not contract.find(name).chain]


def plan(profile: Profile, seed: int) -> list[Step]:
    """Every step of `run` for one seed."""
    every = seed in profile.inference.average_seeds
    found = [ensemble.base_step(profile), *averages(profile, seed)[0 if every else -1 :]]
    for method in ensemble.METHODS:
        found += ensemble.steps(profile, method, seed)
    for method in baselines(profile, seed):
        found += protocol.plan(profile, method, seed)
    return found + (earlier(profile, "condu-ft", seed) if every else [])


def run(profile: Profile, seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """Metrics ``last`` and ``average`` by method, task and label space (column ``space``), task identity unknown.

    ``average`` is there for the seeds of ``profile.inference.average_seeds`` and wherever it costs nothing: zero-shot
    and stored experts, which no session changes, and baselines, whose every session the protocol grades.
    """
    seeds = profile.seeds if seeds is None else seeds
    frames = []
    store.build([step for seed in seeds for step in plan(profile, seed)], profile.compute)
    for seed in seeds:
        for method in (*METHODS, *baselines(profile, seed)):
            by_session = sessions(profile, method, seed)
            last = by_session[by_session.session == by_session.session.max()].drop(columns="session")
            frames.append(last.assign(metric="last", method=method, seed=seed))
            if by_session.session.nunique() == len(profiles.order(profile)):
                mean = by_session.groupby(["space", "task", "n"], sort=False).value.mean().reset_index()
                frames.append(mean.assign(metric="average", method=method, seed=seed))
    frame = pd.concat(frames, ignore_index=True).assign(source="ours", model=profile.model)
    return results.tidy(ensemble.with_means(frame))


def sessions(profile: Profile, method: str, seed: int) -> pd.DataFrame:
    """Columns session, space, task, value, n: every session that is available, always the last."""
    order = profiles.order(profile)
    every = seed in profile.inference.average_seeds
    counts = range(1, len(order) + 1)
    if method == "zero-shot":
        return _alone(profile, dict.fromkeys(counts, ensemble.base(profile)))
    if method == "average":
        seen = counts if every else counts[-1:]
        folders = store.build(averages(profile, seed)[-len(seen) :], profile.compute)
        return _alone(profile, {t: features.load(folder) for t, folder in zip(seen, folders, strict=True)})
    if method in profile.inference.baselines:
        return read(protocol.plan(profile, method, seed))
    panel = ensemble.load(profile, method, seed)
    found = [_panel(profile, panel, counts if method == "experts" else counts[-1:])]
    if method != "experts" and every:
        graded = earlier(profile, method, seed)
        store.build(graded, profile.compute)
        found.append(read(graded))
    return pd.concat(found, ignore_index=True)


def read(graded: Sequence[Step], scheme: str = grading.FULL) -> pd.DataFrame:
    """What the steps that grade one session after the other, all of them computed, have found in each label space.

    Columns session, space, task, value, n.
    """
    rows = []
    for t, step in enumerate(graded, start=1):
        for space in voting.SPACES:
            accuracy, sizes = grading.read(step.folder, scheme, space)
            rows += [(t, space, task, value, sizes[task]) for task, value in accuracy.items()]
    return pd.DataFrame(rows, columns=["session", "space", "task", "value", "n"])


def _panel(profile: Profile, panel: Panel, counts: Sequence[int]) -> pd.DataFrame:
    """Sessions that differ only in how many of the panel's experts there are: later ones have no weight yet."""
    scores = ensemble.similarities(panel, ensemble.prototypes(profile))
    schemes, total = {}, len(panel.order)
    for t in counts:
        by_task = {u: voting.weights(scores[u][:, :t], profile.mtil.k) for u in panel.order}
        schemes[t] = {u: voting.only(weights, total) for u, weights in by_task.items()}
    graded = ensemble.grade(panel, schemes, voting.SPACES, {t: t for t in counts})
    return graded.rename(columns={"scheme": "session"})


def _alone(profile: Profile, by_session: Mapping[int, Mapping[str, Tensor]]) -> pd.DataFrame:
    """Sessions whose single model answers everything by itself."""
    found = []
    for t, view in by_session.items():
        panel = ensemble.of(profile, view)
        alone = {t: {task: labels.new_ones(len(labels), 1).float() for task, labels in panel.labels.items()}}
        found.append(ensemble.grade(panel, alone, voting.SPACES, {t: t}).rename(columns={"scheme": "session"}))
    return pd.concat(found, ignore_index=True)
