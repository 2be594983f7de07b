"""A panel: the base and a bank of experts, how each sees every test image, and the truth.

Once a panel is loaded, any rule of inference is a matrix of weights and is graded with matrix products, in seconds.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipmerge import files
from clipmerge.clip import evaluate
from clipmerge.errors import BadInput
from clipmerge.study import experts, profiles
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import grading, protocol, sessions, traits, views
from clipmerge.study.profiles import Profile
from clipmerge.study.routing import voting

METHODS = ("experts", "condu-ft")
CHUNK = 256  # images voted on at a time
Schemes = Mapping[Hashable, Mapping[str, Float[Tensor, "n members"]]]  # name → task → weights


@dataclass(frozen=True)
class Panel:
    """Members (base first, then experts in the order of learning) as views: ``z.<task>`` and ``head.<task>``."""

    order: tuple[str, ...]
    members: tuple[Mapping[str, Tensor], ...]
    labels: Mapping[str, Int64[Tensor, " n"]]


def tuned(profile: Profile, seed: int) -> list[Step]:
    """The experts in the order of learning."""
    return [experts.step(profile, task, seed) for task in profiles.order(profile)]


def session(profile: Profile, method: str, seed: int, seen: int) -> Mapping[str, Step]:
    """What `method` keeps after `seen` sessions, as the inputs that `protocol` grades: the same cached steps."""
    name = f"{method}/{experts.label(profile.model)}"
    return sessions.build(method, name, tuned(profile, seed)[:seen], profile.mtil.rescaler)[-1]


def steps(profile: Profile, method: str, seed: int) -> list[Step]:
    """How each expert of a bank sees all test images, after the last session."""
    order = profiles.order(profile)
    if method == "experts":
        return [views.step(profile, expert, order) for expert in tuned(profile, seed)]
    if method not in METHODS:
        raise BadInput(f"panel: expected one of {', '.join(METHODS)}; found {method!r}")
    kept = session(profile, method, seed, len(order))["session"]
    return [views.step(profile, kept, order, number=i) for i in range(len(order))]


def base_steps(profile: Profile) -> tuple[Step, Step]:
    """What the base sees of the test images (`protocol.reading`) and of the training images (`traits`)."""
    order = profiles.order(profile)
    return protocol.reading(profile, order), traits.step(profile, order)


def base_view(profile: Profile) -> dict[str, Tensor]:
    """The base as a member."""
    reading, seen = base_steps(profile)
    about, text = files.load_tensors(store.get(reading) / grading.READING), traits.load(store.get(seen))
    view = {}
    for task in profiles.order(profile):
        view |= {f"z.{task}": about[f"z.{task}"], f"head.{task}": traits.head(text, task)}
    return view


def load(profile: Profile, method: str, seed: int) -> Panel:
    """The panel of a bank after the last session."""
    members = [views.load(folder) for folder in store.build(steps(profile, method, seed), profile.workers)]
    return of(profile, base_view(profile), *members)


def of(profile: Profile, *members: Mapping[str, Tensor]) -> Panel:
    """A panel of given members; the truth comes from the profile's data."""
    order = profiles.order(profile)
    labels = {task: experts.dataset(experts.task_config(profile, task)).test_labels for task in order}
    return Panel(order, members, labels)


def prototypes(profile: Profile, side: str = "both") -> list[Float[Tensor, "_ dim"]]:
    """One prototype set for each task in the base's space, tasks in the order of learning."""
    seen = traits.load(store.get(base_steps(profile)[1]))
    return [traits.prototypes(seen, task, side) for task in profiles.order(profile)]


def similarities(
    panel: Panel, prototypes: Sequence[Float[Tensor, "_ dim"]], view: Mapping[str, Tensor] | None = None
) -> dict[str, Float[Tensor, "n tasks"]]:
    """Each test image's similarity to each task, by task; the base's features unless `view` is given."""
    z = panel.members[0] if view is None else view
    return {task: evaluate.similarity(z[f"z.{task}"], prototypes) for task in panel.order}


def routing(panel: Panel, scores: Mapping[str, Float[Tensor, "n tasks"]], k: int = 1) -> dict[str, float]:
    """Per task: how many of its images (per cent) have the right expert among their k nearest."""
    chosen = {task: evaluate.nearest(scores[task], k)[:, u] for u, task in enumerate(panel.order)}
    return {task: 100 * right.double().mean().item() for task, right in chosen.items()}


def grade(
    panel: Panel, schemes: Schemes, spaces: Sequence[str] = ("own", "union"), seen: Mapping[Hashable, int] | None = None
) -> pd.DataFrame:
    """Accuracy (per cent) of each scheme on each task in each label space: columns scheme, space, task, value, n.

    All schemes have weights for the same tasks; a task that they leave out is not graded.
    `seen` gives the number of tasks learned by scheme, where it is not all of them (for the space ``seen``).
    """
    owner = voting.owners([len(panel.members[0][f"head.{task}"]) for task in panel.order])
    heads = [voting.heads(view, panel.order) for view in panel.members]
    learned = [(seen or {}).get(name, len(panel.order)) for name in schemes]
    found = []
    for u, task in enumerate(panel.order):
        if task not in next(iter(schemes.values())):
            continue
        within = {space: torch.stack([voting.allowed(owner, u, t, space) for t in learned]) for space in spaces}
        needed = torch.stack(list(within.values())).flatten(0, 1).any(0)  # own labels alone need few columns
        zs, sliced = [view[f"z.{task}"] for view in panel.members], [head[needed] for head in heads]
        weights = torch.stack([schemes[name][task] for name in schemes], 1)
        right = {space: [] for space in spaces}
        for rows in torch.arange(len(panel.labels[task])).split(CHUNK):
            logits = torch.stack([evaluate.SCALE * z[rows] @ h.T for z, h in zip(zs, sliced, strict=True)], 1)
            voted = weights[rows] @ logits
            for space in spaces:
                of_space = within[space][:, needed]
                right[space].append(voting.hits(voted, panel.labels[task][rows], owner[needed], u, of_space))
        for space in spaces:
            accuracy = 100 * torch.cat(right[space]).double().mean(0)
            fixed = {"space": space, "task": task, "n": len(panel.labels[task])}
            found += [{"scheme": s, "value": a, **fixed} for s, a in zip(schemes, accuracy.tolist(), strict=True)]
    return pd.DataFrame(found)


def with_means(frame: pd.DataFrame) -> pd.DataFrame:
    """Add a row ``task = mean`` (no n: it is a mean of tasks, not of images) wherever all else is equal."""
    keys = [column for column in frame if column not in ("task", "value", "n")]
    means = frame.groupby(keys, dropna=False, sort=False)["value"].mean().reset_index()
    return pd.concat([frame, means.assign(task="mean", n=np.nan)], ignore_index=True)
