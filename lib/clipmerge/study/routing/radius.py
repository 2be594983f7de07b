"""A task has a radius: the base alone answers what lies outside of all of them. A rule beside the authors', not theirs.

ConDU's vote asks K experts even about an image that is near to nothing they know, and Transfer pays for it. Here task i
keeps one more scalar when it is learned: its radius r_i, a low quantile of how similar its own training images are to
it. An image has the margins m_i = s_i − r_i, the base has the margin 0, and softmax(m / τ) says who is listened to.
"""

from collections.abc import Sequence

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from clipmerge.clip import evaluate
from clipmerge.study import profiles, results
from clipmerge.study.cache import store
from clipmerge.study.condu import features, grading, voting
from clipmerge.study.profiles import Profile
from clipmerge.study.routing import agnostic, ensemble

METHODS = {"condu-ft": "condu-ft, radius rule", "experts": "experts, radius rule"}


def margins(profile: Profile) -> dict[str, Float[Tensor, "n tasks"]]:
    """m_i for the test images of every task, by task, as the base sees them: the same whoever votes."""
    rule, order = profile.inference.radius, profiles.order(profile)
    seen = ensemble.base(profile)
    prototypes = [features.prototypes(seen, task, rule.prototypes) for task in order]
    r = features.radii(seen, order, prototypes, rule.quantile)
    return {task: evaluate.similarity(seen[f"z.{task}"], prototypes) - r for task in order}


def run(profile: Profile, seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """Tidy rows of `profile.inference.radius`: metrics ``last``, ``average`` and ``transfer`` by label space.

    Stored experts can be asked in every session at no cost. Of decoupled ones the earlier sessions, which Transfer and
    Average need, are graded for the seeds of ``profile.inference.average_seeds``.
    """
    near, tau = margins(profile), profile.inference.radius.tau
    frames = []
    for seed in profile.seeds if seeds is None else seeds:
        for method, name in METHODS.items():
            panel = ensemble.load(profile, method, seed)
            graded = [transfer(panel, near, tau)] if method == "experts" else [last(panel, near, tau)]
            if method != "experts" and seed in profile.inference.average_seeds:
                graded.append(earlier(profile, method, seed, graded[0]))
            frames += [each.assign(method=name, seed=seed) for each in graded]
    frame = pd.concat(frames, ignore_index=True).assign(source="ours", model=profile.model)
    return results.tidy(ensemble.with_means(frame))


def earlier(profile: Profile, method: str, seed: int, last: pd.DataFrame) -> pd.DataFrame:
    """Transfer on own labels, and Average in every label space, of decoupled experts; `last` are the last session's."""
    order = profiles.order(profile)
    steps = agnostic.earlier(profile, method, seed)
    store.build(steps, profile.compute)
    rows = agnostic.read(steps, grading.RADIUS)
    unseen = rows[rows.space.eq("own") & (rows.task.map(order.index) >= rows.session)].assign(metric="transfer")
    every = pd.concat([rows, last], ignore_index=True).assign(metric="average")
    by = ["metric", "space", "task", "n"]
    return pd.concat([unseen, every]).groupby(by, sort=False).value.mean().reset_index()


def last(panel: ensemble.Panel, near: dict[str, Tensor], tau: float) -> pd.DataFrame:
    """Accuracy after the last session, by task and label space, from the margins of every task's test images."""
    schemes = {"last": {task: voting.fenced(m, tau) for task, m in near.items()}}
    return ensemble.grade(panel, schemes, voting.SPACES).rename(columns={"scheme": "metric"})


def transfer(panel: ensemble.Panel, near: dict[str, Tensor], tau: float) -> pd.DataFrame:
    """Accuracy on tasks not yet seen, on their own labels, by task: mean over the sessions before its own."""
    graded = ensemble.unseen(panel, near, lambda m: {"transfer": voting.fenced(m, tau)})
    return graded.rename(columns={"scheme": "metric"})
