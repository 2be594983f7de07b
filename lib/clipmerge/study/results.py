"""Tidy results: one number a row, ours and reported ones in the same columns.

The columns are a contract with every figure and table (`COLUMNS`); whatever else distinguishes two numbers (``model``,
``order``, ``session``, ``technique``, …) is a further column. Values are in per cent unless the metric says otherwise.
"""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from clipmerge import paths
from clipmerge.errors import BadInput
from clipmerge.study import metrics

COLUMNS = ("method", "task", "metric", "seed", "value", "n", "source")
MTIL = {  # by task, and the mean
    "transfer": (metrics.transfer_by_task, metrics.transfer),
    "average": (metrics.average_by_task, metrics.average),
    "last": (metrics.last_by_task, metrics.last),
}

# Names as printed by the papers → names used throughout this project. What is not listed keeps its printed name:
# variants ("fair" LwF, "their run") are other methods, not other spellings.
METHODS = {
    "Zero-shot": "zero-shot",
    "Zero-shot CLIP ViT-B/16": "zero-shot",
    "Continual-FT": "continual-ft",
    "LwF": "lwf",
    "iCaRL": "icarl",
    "LwF-VR": "lwf-vr",
    "WiSE-FT": "wise-ft",
    "ZSCL": "zscl",
    "ZSCL*": "zscl*",
    "Dual-RAIL": "rail-dual",
    "RAIL-Primal": "rail",  # ours is of this form
    "Primal-RAIL": "rail",
    "MoE-Adapters": "moe-adapters",
    "MoE-Adapter": "moe-adapters",
    "ConDU (FT)": "condu-ft",
    "ConDU (LoRA)": "condu-lora",
}


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Put the contract's columns first and give ``seed`` and ``n`` whole numbers that may be empty."""
    missing = [column for column in COLUMNS if column not in frame]
    if missing:
        raise BadInput(f"results: expected the columns {', '.join(COLUMNS)}, found none called {', '.join(missing)}")
    rest = [column for column in frame if column not in COLUMNS]
    kinds = {"seed": "Int64", "n": "Int64", "value": "float64"}
    return frame[[*COLUMNS, *rest]].astype(kinds).reset_index(drop=True)


def rows(
    values: Mapping[str, float],
    *,
    method: str,
    metric: str,
    seed: int | None,
    n: Mapping[str, int] | int | None = None,
    source: str = "ours",
    **extra: object,
) -> pd.DataFrame:
    """One row for each task of `values` {task: value}; `n` is the number of test images, for all tasks or by task."""
    frame = pd.DataFrame({"task": values.keys(), "value": values.values()})
    sizes = frame.task.map(n) if isinstance(n, Mapping) else n
    return tidy(frame.assign(method=method, metric=metric, seed=seed, n=sizes, source=source, **extra))


def with_mean(values: Mapping[str, float]) -> dict[str, float]:
    """Values by task, and their mean as ``mean``."""
    return {**values, "mean": float(np.mean(list(values.values())))}


def mtil_rows(
    matrix: ArrayLike, tasks: Sequence[str], *, n: Mapping[str, int] | None = None, **fixed: object
) -> pd.DataFrame:
    """Transfer, average and last of an accuracy matrix, by task (in order of learning) and as ``task = mean``."""
    frames = []
    for metric, (by_task, mean) in MTIL.items():
        values = dict(zip(tasks, by_task(matrix).tolist(), strict=True))
        if metric == "transfer":
            del values[tasks[0]]  # nothing precedes the first task
        frames.append(rows({**values, "mean": mean(matrix)}, metric=metric, n=n, **fixed))
    return pd.concat(frames, ignore_index=True)


def matrix_rows(
    matrix: ArrayLike, tasks: Sequence[str], *, n: Mapping[str, int] | None = None, **fixed: object
) -> pd.DataFrame:
    """Every entry of an accuracy matrix: ``metric = accuracy``, ``session`` counted from 1."""
    accuracy = np.asarray(matrix, dtype=np.float64)
    frames = [
        rows(dict(zip(tasks, row.tolist(), strict=True)), metric="accuracy", n=n, session=session, **fixed)
        for session, row in enumerate(accuracy, start=1)
    ]
    return pd.concat(frames, ignore_index=True)


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds: whatever is equal in all other columns is one row.

    Columns ``value`` and ``seed`` give way to ``mean``, ``sd`` (of a sample, so empty for one seed) and ``seeds``, the
    number of seeds; first appearance decides the order of rows.
    """
    keys = [column for column in frame if column not in ("value", "seed")]
    groups = frame.groupby(keys, dropna=False, sort=False)["value"]
    return groups.agg(mean="mean", sd="std", seeds="size").reset_index()


@cache
def _reported() -> pd.DataFrame:
    raw = pd.read_csv(paths.manifests() / "reported" / "reported_results.csv", dtype=str, keep_default_na=False)
    frame = raw.rename(columns={"dataset": "task", "value": "printed", "method": "printed_method"})
    frame["method"] = frame.printed_method.replace(METHODS)
    frame["metric"] = frame.metric.replace({name.title(): name for name in MTIL})
    frame["value"] = pd.to_numeric(frame.printed, errors="coerce")
    return tidy(frame.assign(seed=pd.NA, n=pd.NA))


def reported(setting: str | None = None, metric: str | None = None) -> pd.DataFrame:
    """Published numbers in the tidy columns, `source` citing each, plus ``paper, table, setting, printed``.

    `printed` is the number as it stands in the paper; `value` is empty where that is not a plain number ("~1 %").
    Filters match exactly: ``reported("MTIL Order I", "transfer")``.
    """
    frame = _reported()
    for column, wanted in (("setting", setting), ("metric", metric)):
        if wanted is None:
            continue
        known = frame[column].unique()
        if wanted not in known:
            raise BadInput(f"reported numbers: {column}: expected one of {', '.join(known)}; found {wanted}")
        frame = frame[frame[column] == wanted]
    return frame.reset_index(drop=True)


@cache
def _matrices() -> pd.DataFrame:
    return pd.read_csv(paths.manifests() / "reported" / "zscl_order1_matrices.csv")


def matrix_tasks() -> tuple[str, ...]:
    """The tasks of `matrices`, in MTIL's Order I."""
    return tuple(_matrices().sort_values("eval_task_index").eval_dataset.unique())


def matrices() -> dict[str, np.ndarray]:
    """ZSCL's published accuracy matrices [11 sessions, 11 tasks] in Order I, by method, in per cent."""
    square = {"index": "after_task_index", "columns": "eval_task_index", "values": "accuracy"}
    groups = _matrices().groupby("method", sort=False)
    return {METHODS[method]: group.pivot(**square).to_numpy(copy=True) for method, group in groups}
