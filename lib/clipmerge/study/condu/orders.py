"""Does ConDU care in which order tasks arrive? The experts do not: only unifying and grading are done again.

One call of *unify* is symmetric in its inputs, the recursion over sessions is not. Orders: I (the profile's), II
(MTIL's second order as a permutation of places, carried over to our tasks), and random ones.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from clipmerge.study import profiles, results
from clipmerge.study.cache import store
from clipmerge.study.condu import protocol
from clipmerge.study.profiles import Profile

SECOND = (9, 6, 7, 8, 5, 10, 0, 1, 3, 4, 2)  # MTIL's Order II as indices into Order I (ZSCL's notebook)


def named(profile: Profile) -> dict[str, tuple[str, ...]]:
    """The orders by name: ``I``, ``II``, ``random 1``, …; the random ones are the same for everybody."""
    first = profiles.order(profile)
    both = {"I": first, "II": tuple(first[i] for i in SECOND if i < len(first))}
    orders = {name: both[name] for name in profile.baselines.orders}
    for number in range(1, profile.baselines.random_orders + 1):
        shuffled = np.random.default_rng(number).permutation(len(first))
        orders[f"random {number}"] = tuple(first[i] for i in shuffled)
    return orders


def run(profile: Profile) -> pd.DataFrame:
    """Tidy rows of ``condu-ft`` in every order, and of ``continual-ft`` in those that are not random; column ``order``.

    Besides accuracies and transfer, average, last (random orders: last alone, a tenth of the work): metric ``kept``,
    what the last session's decoupled expert has of its original's accuracy (per cent, ``condu-ft`` only), with the
    task's ``position`` (1: learned first).
    """
    orders, every_session = named(profile), profile.baselines.orders
    seeds = profile.baselines.order_seeds
    wanted = [*(("condu-ft", name) for name in orders), *(("continual-ft", name) for name in every_session)]
    every = [(name, protocol.plan(profile, method, seed, orders[name])) for method, name in wanted for seed in seeds]
    graded = [step for name, steps in every for step in (steps if name in every_session else steps[-1:])]
    store.build(graded, profile.compute)
    own = protocol.last(profile, ("experts",), profile.model, seeds)
    frames = []
    for method, name in wanted:
        if name in every_session:
            rows = protocol.run(profile, (method,), seeds, orders[name])
        else:
            rows = protocol.last(profile, (method,), profile.model, seeds, order=orders[name])
        frames.append(rows.assign(order=name))
        if method == "condu-ft":
            frames.append(kept(rows, own, orders[name]).assign(order=name))
    return pd.concat(frames, ignore_index=True)


def kept(rows: pd.DataFrame, own: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """``100 · A[T, i] / (accuracy of the expert itself)`` for each task and seed, with the task's position.

    A task whose expert knows nothing (toy runs only) has no such share and is left out.
    """
    keys = ["task", "seed"]
    last = rows[(rows.metric == "last") & (rows.task != "mean")].set_index(keys)
    share = 100 * last.value / own[(own.task != "mean") & (own.value > 0)].set_index(keys).value
    found = last.assign(value=share, metric="kept").dropna(subset="value").reset_index()
    place = {task: position for position, task in enumerate(order, start=1)}
    return results.tidy(found.drop(columns="session", errors="ignore").assign(position=found.task.map(place)))


def slope(rows: pd.DataFrame) -> tuple[float, float]:
    """Points of ``kept`` per position, and its standard error: least squares with a mean of its own for each task.

    Tasks differ far more than positions do; the same task in several places is what tells them apart. Tasks of one run
    are treated as independent, which they are not quite: take the error as a lower bound.
    """
    centred = rows[["position", "value"]].astype(float) - rows.groupby("task")[["position", "value"]].transform("mean")
    x, y = centred.position.to_numpy(), centred.value.to_numpy()
    if not (x @ x) > 0:
        return float("nan"), float("nan")
    b, free = (x @ y) / (x @ x), len(x) - rows.task.nunique() - 1
    error = np.sqrt(((y - b * x) ** 2).sum() / free / (x @ x)) if free > 0 else float("nan")
    return float(b), float(error)
