"""What is read off a continual run: transfer, average and last (MTIL), and TIME's three retention measures.

An accuracy matrix ``A`` is square: ``A[t, i]`` is the accuracy (per cent) on the task learnt in session ``i``, after
session ``t``. Rows and columns are in the order of learning, so a run in another order needs its columns permuted too.
Entries above the diagonal are zero-shot, the diagonal is fresh, those below tell what was kept.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from clipmerge.errors import BadInput


def _square(matrix: ArrayLike) -> np.ndarray:
    accuracy = np.asarray(matrix, dtype=np.float64)
    if accuracy.ndim != 2 or accuracy.shape[0] != accuracy.shape[1] or not accuracy.size:
        raise BadInput(f"accuracy matrix: expected a square [sessions, tasks], found shape {list(accuracy.shape)}")
    return accuracy


def transfer_by_task(matrix: ArrayLike) -> np.ndarray:
    """Accuracy on task i before it was ever trained: ``Transfer_i = mean_{t<i} A[t, i]``.

    Returns a vector [tasks]; its first entry is NaN, because nothing precedes the first task.
    """
    accuracy = _square(matrix)
    before = [accuracy[:i, i].mean() for i in range(1, len(accuracy))]
    return np.array([np.nan, *before])


def average_by_task(matrix: ArrayLike) -> np.ndarray:
    """Accuracy on task i over the whole run, untrained sessions included: ``Average_i = mean_t A[t, i]``."""
    return _square(matrix).mean(axis=0)


def last_by_task(matrix: ArrayLike) -> np.ndarray:
    """Accuracy on task i after the last session: ``Last_i = A[T, i]``."""
    return _square(matrix)[-1].copy()


def transfer(matrix: ArrayLike) -> float:
    """Mean of `transfer_by_task` over all tasks *but the first* (NaN for a single task).

    Mind the set it averages: zero-shot CLIP has Transfer 69.4 over ten MTIL tasks and accuracy 65.3 over eleven; the
    two must not be subtracted from one another.
    """
    values = transfer_by_task(matrix)[1:]
    return float(values.mean()) if values.size else float("nan")


def average(matrix: ArrayLike) -> float:
    """Mean of `average_by_task`, that is, of the whole matrix."""
    return float(average_by_task(matrix).mean())


def last(matrix: ArrayLike) -> float:
    """Mean of `last_by_task`: how good the final model is on everything it was taught."""
    return float(last_by_task(matrix).mean())


def _mean(accuracies: Iterable[float], name: str) -> float:
    values = np.fromiter(accuracies, dtype=np.float64)
    if not values.size:
        raise BadInput(f"{name}: expected at least one accuracy, found none")
    return float(values.mean())


def knowledge_accumulation(adaptation: Iterable[float]) -> float:
    """``A_KA``: mean over the test sets of *all* adaptation tasks, seen so far or not (FoMo-in-Flux, TIME).

    A retrieval set enters with its recall@5 and counts as one set, e.g. (40 · mean accuracy + recall) / 41.
    """
    return _mean(adaptation, "knowledge accumulation")


def zero_shot_retention(heldout: Iterable[float]) -> float:
    """``A_ZS``: mean over the held-out sets that no task trains on; retrieval sets as in `knowledge_accumulation`."""
    return _mean(heldout, "zero-shot retention")


def geometric_mean(accumulation: float, retention: float) -> float:
    """``√(A_KA · A_ZS)``: the one number TIME ranks by; a model that forgets either side is punished."""
    return float(np.sqrt(accumulation * retention))
