"""A task has a radius: the base alone answers what lies outside of all of them. A rule beside the authors', not theirs.

ConDU's vote asks K experts even about an image that is near to nothing they know, and Transfer pays for it. Here task i
keeps one more scalar when it is learned: its radius r_i, a low quantile of how similar its own training images are to
it. An image has the margins m_i = s_i − r_i, the base has the margin 0, and softmax(m / τ) says who is listened to.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from clipmerge.clip import evaluate
from clipmerge.study import profiles, results
from clipmerge.study.condu import features, voting
from clipmerge.study.profiles import Profile
from clipmerge.study.routing import ensemble

METHODS = {"condu-ft": "condu-ft, radius rule", "experts": "experts, radius rule"}


def radii(
    seen: features.Features, prototypes: Sequence[Float[Tensor, "_ dim"]], order: Sequence[str], quantile: float
) -> Float[Tensor, " tasks"]:
    """r_i: the `quantile` of the training images' similarity to their own task, as the base has `seen` them."""
    own = [evaluate.similarity(seen[f"train.{task}"], [p])[:, 0] for task, p in zip(order, prototypes, strict=True)]
    return torch.stack([scores.quantile(quantile) for scores in own])


def weights(margins: Float[Tensor, "n tasks"], tau: float) -> Float[Tensor, "n members"]:
    """Weights of the base (column 0, margin 0) and of each expert; rows sum to one."""
    return (torch.cat([torch.zeros(len(margins), 1), margins], 1) / tau).softmax(1)


def margins(profile: Profile) -> dict[str, Float[Tensor, "n tasks"]]:
    """m_i for the test images of every task, by task, as the base sees them: the same whoever votes."""
    rule, order = profile.inference.radius, profiles.order(profile)
    seen = ensemble.base(profile)
    prototypes = [features.prototypes(seen, task, rule.prototypes) for task in order]
    r = radii(seen, prototypes, order, rule.quantile)
    return {task: evaluate.similarity(seen[f"z.{task}"], prototypes) - r for task in order}


def run(profile: Profile, seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """Tidy rows of `profile.inference.radius`: metric ``last`` by label space (decoupled experts), and ``transfer``.

    Transfer is of the stored experts, which can be asked in every session at no cost.
    """
    near, tau = margins(profile), profile.inference.radius.tau
    frames = []
    for seed in profile.seeds if seeds is None else seeds:
        for method, name in METHODS.items():
            panel = ensemble.load(profile, method, seed)
            graded = last(panel, near, tau) if method == "condu-ft" else transfer(panel, near, tau)
            frames.append(graded.assign(method=name, seed=seed))
    frame = pd.concat(frames, ignore_index=True).assign(source="ours", model=profile.model)
    return results.tidy(ensemble.with_means(frame))


def last(panel: ensemble.Panel, near: dict[str, Tensor], tau: float) -> pd.DataFrame:
    """Accuracy after the last session, by task and label space, from the margins of every task's test images."""
    schemes = {"last": {task: weights(m, tau) for task, m in near.items()}}
    return ensemble.grade(panel, schemes, voting.SPACES).rename(columns={"scheme": "metric"})


def transfer(panel: ensemble.Panel, near: dict[str, Tensor], tau: float) -> pd.DataFrame:
    """Accuracy on tasks not yet seen, on their own labels, by task: mean over the sessions before its own."""
    graded = ensemble.unseen(panel, near, lambda m: {"transfer": weights(m, tau)})
    return graded.rename(columns={"scheme": "metric"})
