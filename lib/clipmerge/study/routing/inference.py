"""Rules of ConDU's inference compared: what prototypes are made of (Table 4) and who votes (Appendix F), as tidy rows.

All of it is read off panels (`ensemble`): once the experts' views are in the cache, a rule costs matrix products.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from clipmerge.study import experts, profiles, results
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import features, voting
from clipmerge.study.condu.panel import Panel
from clipmerge.study.profiles import Profile
from clipmerge.study.routing import agnostic, ensemble

FEATURES = ("base", "experts", "decoupled", "decoupled, base's prototypes")


def tuned_features(profile: Profile, seed: int) -> list[Step]:
    """How each expert sees the training images of its own task."""
    order = profiles.order(profile)
    tuned = [experts.step(profile, task, seed) for task in order]
    return [features.of_model(profile, kept, [task], part="train") for task, kept in zip(order, tuned, strict=True)]


def build(profile: Profile, seeds: Sequence[int] | None = None) -> None:
    """Compute what Table 2, Table 4 and the K sweep need, in one go."""
    seeds = profile.seeds if seeds is None else seeds
    plans = [agnostic.plan(profile, seed) + tuned_features(profile, seed) for seed in seeds]
    store.build([step for plan in plans for step in plan], profile.compute)


def table4(profile: Profile, seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """What is compared with what, by columns ``features`` and ``prototypes``; decoupled experts answer.

    Metrics: ``routing`` (the nearest task is the right one), ``routing_k`` (the right one is among the K nearest),
    ``own`` and ``union`` (accuracy after the last session in either label space).
    """
    k = profile.mtil.k
    frames = []
    for seed in profile.seeds if seeds is None else seeds:
        panel = ensemble.load(profile, "condu-ft", seed)
        scores = {(f, side): similarity(profile, panel, seed, f, side) for f in FEATURES for side in features.SIDES}
        schemes = {key: {u: voting.weights(s, k) for u, s in by.items()} for key, by in scores.items()}
        rows = [ensemble.grade(panel, schemes).rename(columns={"space": "metric"})]
        for key, by in scores.items():
            for metric, width in (("routing", 1), ("routing_k", k)):
                shares = ensemble.routing(panel, by, width)
                found = [(key, metric, u, value, len(panel.labels[u])) for u, value in shares.items()]
                rows.append(pd.DataFrame(found, columns=["scheme", "metric", "task", "value", "n"]))
        frames.append(pd.concat(rows, ignore_index=True).assign(seed=seed))
    return _tidy(profile, pd.concat(frames, ignore_index=True), ["features", "prototypes"])


def similarity(
    profile: Profile, panel: Panel, seed: int, whose: str = "base", side: str = "both"
) -> dict[str, Float[Tensor, "n tasks"]]:
    """Similarity of every test image with every task, by whose features see the image and what prototypes hold.

    ``base``: θ⁰ sees image and prototypes. ``experts``: task i's stored expert sees the image and its own task's
    prototypes. ``decoupled``: the same prototypes (made while the data were there), but the decoupled expert sees the
    image. The fourth has the decoupled expert see the image and θ⁰ the prototypes.
    """
    if whose == "base":
        return ensemble.similarities(panel, ensemble.prototypes(profile, side))
    sets = ensemble.prototypes(profile, side)
    if whose != FEATURES[3]:
        kept = [features.load(folder) for folder in store.build(tuned_features(profile, seed), profile.compute)]
        sets = [features.prototypes(each, task, side) for each, task in zip(kept, panel.order, strict=True)]
    looking = ensemble.load(profile, "experts", seed) if whose == "experts" else panel
    each = [ensemble.similarities(panel, [s], view) for s, view in zip(sets, looking.members[1:], strict=True)]
    return {task: torch.cat([by[task] for by in each], 1) for task in panel.order}


def chosen(profile: Profile, seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """Method ``condu-ft, chosen rule`` after the last session, by label space: `profile.inference.chosen` votes."""
    rule, frames = profile.inference.chosen, []
    for seed in profile.seeds if seeds is None else seeds:
        panel = ensemble.load(profile, "condu-ft", seed)
        scores = ensemble.similarities(panel, ensemble.prototypes(profile, rule.prototypes))
        votes = {u: _weights(s, (rule.k, rule.base, rule.weighting, rule.tau)) for u, s in scores.items()}
        graded = ensemble.grade(panel, {"chosen": votes}, voting.SPACES).drop(columns="scheme")
        frames.append(graded.assign(metric="last", seed=seed))
    frame = pd.concat(frames, ignore_index=True)
    frame = frame.assign(method="condu-ft, chosen rule", source="ours", model=profile.model)
    return results.tidy(ensemble.with_means(frame))


def sweep(profile: Profile, seeds: Sequence[int] | None = None, side: str = "both") -> pd.DataFrame:
    """Appendix F: accuracy after the last session by ``k``, ``base`` (is it a member?), ``weighting`` and ``tau``.

    Metrics ``own`` and ``union`` (label spaces) of method ``condu-ft``; `side` says what prototypes are made of.
    """
    rules = [
        (k, base, kind, tau)
        for base in (True, False)
        for k in range(0 if base else 1, len(profiles.order(profile)) + 1)
        for kind in voting.KINDS
        for tau in (profile.inference.taus if kind == "softmax" else (None,))
    ]
    frames = []
    for seed in profile.seeds if seeds is None else seeds:
        panel = ensemble.load(profile, "condu-ft", seed)
        scores = ensemble.similarities(panel, ensemble.prototypes(profile, side))
        schemes = {rule: {u: _weights(s, rule) for u, s in scores.items()} for rule in rules}
        frames.append(ensemble.grade(panel, schemes).rename(columns={"space": "metric"}).assign(seed=seed))
    return _tidy(profile, pd.concat(frames, ignore_index=True), ["k", "base", "weighting", "tau"])


def _weights(scores: Tensor, rule: tuple) -> Tensor:
    k, base, kind, tau = rule
    return voting.weights(scores, k, base=base, kind=kind, tau=tau or 1.0)


def unseen(profile: Profile, seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """Transfer against K: method ``experts`` (stored experts, plain mean, with the base), metric ``transfer``.

    A task is unseen in every session before its own; the experts of the sessions so far answer for it.
    """
    total = len(profiles.order(profile))
    frames = []
    for seed in profile.seeds if seeds is None else seeds:
        panel = ensemble.load(profile, "experts", seed)
        scores = ensemble.similarities(panel, ensemble.prototypes(profile))
        graded = ensemble.unseen(panel, scores, lambda s: {k: voting.weights(s, k) for k in range(total + 1)})
        frames.append(graded.drop(columns="space").rename(columns={"scheme": "k"}).assign(metric="transfer", seed=seed))
    mean = pd.concat(frames, ignore_index=True)
    fixed = {"method": "experts", "source": "ours", "model": profile.model, "base": True, "weighting": "mean"}
    return results.tidy(ensemble.with_means(mean.assign(**fixed, tau=None)))


def _tidy(profile: Profile, frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Spread the schemes' names over columns, add means over tasks."""
    frame[list(columns)] = pd.DataFrame(frame.pop("scheme").tolist(), index=frame.index)
    return results.tidy(ensemble.with_means(frame.assign(method="condu-ft", source="ours", model=profile.model)))
