"""The panel of a profile's tasks after the last session: base and experts, and how each has seen every test image.

Once it is loaded, any rule of inference is a matrix of weights and is graded with matrix products, in seconds.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from clipmerge.clip import evaluate
from clipmerge.errors import BadInput
from clipmerge.study import experts, profiles
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import contract, features, panel, protocol, voting
from clipmerge.study.condu.panel import Panel
from clipmerge.study.profiles import Profile

METHODS = ("experts", "condu-ft")


def session(profile: Profile, method: str, seed: int, seen: int) -> Step:
    """What `method` keeps after `seen` sessions: the same cached step that the protocol grades."""
    return protocol.kept(profile, method, seed)[seen - 1]


def steps(profile: Profile, method: str, seed: int) -> list[Step]:
    """How each expert of a bank sees all test images, after the last session."""
    order = profiles.order(profile)
    if method not in METHODS:
        raise BadInput(f"panel: expected one of {', '.join(METHODS)}; found {method!r}")
    kept = protocol.kept(profile, method, seed)
    if contract.find(method).answers == "own":
        return kept
    return [features.of_task(profile, kept[-1], number, order) for number in range(len(order))]


def base_step(profile: Profile) -> Step:
    """What the base sees of test and training images."""
    return features.of_base(profile, profiles.order(profile))


def base(profile: Profile) -> dict[str, Tensor]:
    """The same, loaded: the base as a member, and what prototypes are made of."""
    return features.load(store.get(base_step(profile)))


def load(profile: Profile, method: str, seed: int) -> Panel:
    """The panel of a bank after the last session."""
    folders = store.build(steps(profile, method, seed), profile.compute)
    return of(profile, base(profile), *map(features.load, folders))


def of(profile: Profile, *members: Mapping[str, Tensor]) -> Panel:
    """A panel of given members; the truth comes from the profile's data."""
    order = profiles.order(profile)
    return panel.of([experts.dataset(experts.task_config(profile, task)) for task in order], *members)


def prototypes(profile: Profile, side: str = "both") -> list[Float[Tensor, "_ dim"]]:
    """One prototype set for each task in the base's space, tasks in the order of learning."""
    seen = base(profile)
    return [features.prototypes(seen, task, side) for task in profiles.order(profile)]


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
    given: Panel,
    schemes: panel.Schemes,
    spaces: Sequence[str] = ("own", "union"),
    seen: Mapping[Hashable, int] | None = None,
) -> pd.DataFrame:
    """`panel.grade` as a table: columns scheme, space, task, value, n."""
    graded = panel.grade(given, schemes, spaces, seen)
    columns = {"scheme": [key[0] for key in graded], "space": [key[1] for key in graded]}
    columns |= {"task": [key[2] for key in graded], "n": [len(given.labels[key[2]]) for key in graded]}
    return pd.DataFrame({**columns, "value": list(graded.values())})


def unseen(
    given: Panel,
    scores: Mapping[str, Float[Tensor, "n tasks"]],
    rules: Callable[[Float[Tensor, "n seen"]], Mapping[Hashable, Float[Tensor, "n members"]]],
) -> pd.DataFrame:
    """Accuracy on tasks before they are learned, on their own labels: the mean over the sessions before each one's own.

    `rules` gives the weights, by scheme, of images whose scores for the tasks seen so far it is handed. Columns as in
    `grade`.
    """
    total = len(given.order)
    frames = []
    for t in range(1, total):
        later = {u: rules(scores[u][:, :t]) for u in given.order[t:]}
        names = next(iter(later.values()))
        schemes = {name: {u: voting.only(by[name], total) for u, by in later.items()} for name in names}
        frames.append(grade(given, schemes, ["own"]))
    by = ["scheme", "space", "task", "n"]
    return pd.concat(frames, ignore_index=True).groupby(by, sort=False).value.mean().reset_index()


def with_means(frame: pd.DataFrame) -> pd.DataFrame:
    """Add a row ``task = mean`` (no n: it is a mean of tasks, not of images) wherever all else is equal."""
    keys = [column for column in frame if column not in ("task", "value", "n")]
    means = frame.groupby(keys, dropna=False, sort=False)["value"].mean().reset_index()
    return pd.concat([frame, means.assign(task="mean", n=np.nan)], ignore_index=True)
