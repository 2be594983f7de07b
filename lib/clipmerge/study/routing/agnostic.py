"""Table 2: accuracy when nobody says which task an image is from, in the label space of its task and of all tasks.

The last session is a panel (`ensemble`) and takes matrix products. The sessions before it, which Average needs, take a
step each (`answers`), for the seeds that the profile names.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
from torch import Tensor

from clipmerge import files
from clipmerge.study import experts, profiles, results
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import answers, views
from clipmerge.study.profiles import Profile
from clipmerge.study.routing import ensemble, voting

METHODS = ("zero-shot", "average", "experts", "condu-ft")


def earlier(profile: Profile, method: str, seed: int) -> list[Step]:
    """What the sessions before the last take: an answer each for ConDU, a view of the merged model for ``average``."""
    order, found = profiles.order(profile), []
    reading, seen = ensemble.base_steps(profile)
    config = {"model": profile.model, "tasks": [experts.task_config(profile, t) for t in order], "k": profile.mtil.k}
    for t in range(1, len(order)):
        kept = ensemble.session(profile, method, seed, t)
        if method == "average":
            found.append(views.step(profile, kept["model"], order))
        else:
            label = f"agnostic/{method}/{experts.label(profile.model)}/{t:02d}"
            inputs = {"reading": reading, "traits": seen} | experts.base_inputs(profile.model) | dict(kept)
            found.append(Step(answers.answer, label, config | {"seen": t}, inputs))
    return found


def merged(profile: Profile, seed: int) -> Step:
    """How the average of all experts sees the test images."""
    order = profiles.order(profile)
    return views.step(profile, ensemble.session(profile, "average", seed, len(order))["model"], order)


def plan(profile: Profile, seed: int) -> list[Step]:
    """Every step of `run` for one seed."""
    found = [*ensemble.base_steps(profile), merged(profile, seed)]
    for method in ensemble.METHODS:
        found += ensemble.steps(profile, method, seed)
    if seed in profile.inference.average_seeds:
        found += earlier(profile, "condu-ft", seed) + earlier(profile, "average", seed)
    return found


def run(profile: Profile, seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """Metrics ``last`` and ``average`` by method, task and label space (column ``space``), task identity unknown.

    ``average`` is there for the seeds of ``profile.inference.average_seeds`` and wherever it costs nothing: zero-shot
    and stored experts, which no session changes.
    """
    seeds, frames = profile.seeds if seeds is None else seeds, []
    store.build([step for seed in seeds for step in plan(profile, seed)], profile.workers)
    for seed in seeds:
        for method in METHODS:
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
    order, every = profiles.order(profile), seed in profile.inference.average_seeds
    counts = range(1, len(order) + 1)
    if method == "zero-shot":
        return _alone(profile, dict.fromkeys(counts, ensemble.base_view(profile)))
    if method == "average":
        steps = [*(earlier(profile, method, seed) if every else []), merged(profile, seed)]
        seen = counts if every else [len(order)]
        folders = store.build(steps, profile.workers)
        return _alone(profile, {t: views.load(folder) for t, folder in zip(seen, folders, strict=True)})
    panel = ensemble.load(profile, method, seed)
    found = [_panel(profile, panel, counts if method == "experts" else [len(order)])]
    if method != "experts" and every:
        sizes = {task: len(labels) for task, labels in panel.labels.items()}
        for t, folder in enumerate(store.build(earlier(profile, method, seed), profile.workers), 1):
            spaces = files.read_json(folder / answers.AGNOSTIC)
            rows = [(t, space, u, value, sizes[u]) for space in spaces for u, value in spaces[space].items()]
            found.append(pd.DataFrame(rows, columns=["session", "space", "task", "value", "n"]))
    return pd.concat(found, ignore_index=True)


def _panel(profile: Profile, panel: ensemble.Panel, counts: Sequence[int]) -> pd.DataFrame:
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
