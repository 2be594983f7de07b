"""The picture of somebody's own experts: accuracy per task, what decoupling kept, who interferes with whom."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clipmerge import files
from clipmerge.book import figures
from clipmerge.errors import BadInput
from clipmerge.study import results
from clipmerge.study.own.experts import own


def draw(rows: pd.DataFrame) -> Figure:
    """Bars of every method on every task (an expert's on its own), and the matrix: expert i on task j, decoupled.

    `rows` are what `study.own_experts.grade` gives.
    """
    accuracy = rows[(rows.metric == "accuracy") & (rows.task != "mean")]
    tasks = list(dict.fromkeys(accuracy.task))
    methods = list(dict.fromkeys(accuracy.method))
    wide = max(figures.WIDTH, 1.1 * len(tasks) + 3)
    with plt.rc_context(dict(figures.STYLE)):
        figure, (left, right) = plt.subplots(1, 2, figsize=(wide, 3.2), width_ratios=(2, 1))
        looks = figures.looks(methods)
        for k, method in enumerate(methods):
            part = accuracy[accuracy.method == method]
            pairs = zip(part.model, part.task, strict=True)
            mine = part[[name == "" or own(name, tasks) == task for name, task in pairs]]
            heights = mine.set_index("task").value.reindex(tasks).to_numpy(float)
            places = np.arange(len(tasks)) + (k - (len(methods) - 1) / 2) * 0.8 / len(methods)
            left.bar(places, heights, 0.8 / len(methods), color=looks[method]["color"], label=method)
        left.set_xticks(range(len(tasks)), tasks)
        left.set_ylabel("accuracy (%)")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(methods))
        _matrix(right, accuracy[accuracy.method == "decoupled"], rows[rows.metric == "kept"], tasks)
    return figure


def _matrix(axis: plt.Axes, decoupled: pd.DataFrame, kept: pd.DataFrame, tasks: list[str]) -> None:
    names = list(dict.fromkeys(decoupled.model))
    table = decoupled.pivot(index="model", columns="task", values="value").reindex(index=names, columns=tasks)
    axis.imshow(table, vmin=0, vmax=100, aspect="auto")
    shares = kept.set_index(["model", "task"]).value.to_dict()
    for i, name in enumerate(names):
        for j, task in enumerate(tasks):
            value, share = table.iloc[i, j], shares.get((name, task))
            said = f"{value:.0f}" if share is None else f"{value:.0f}\n{share:.0f} % kept"
            axis.text(j, i, said, ha="center", va="center", color="white" if value < 55 else "black", fontsize=7)
    axis.set_xticks(range(len(tasks)), tasks)
    axis.set_yticks(range(len(names)), names)
    axis.set_title("decoupled expert on task")
    axis.set_ylabel("expert")
    axis.set_xlabel("task")


def save(source: Path, out: Path) -> None:
    """Draw a csv of results into a .png or .pdf file."""
    kind = out.suffix.removeprefix(".")
    if kind not in ("png", "pdf"):
        raise BadInput(f"{out}: expected a name that ends with .png or .pdf")
    try:
        rows = pd.read_csv(source, keep_default_na=False, na_values={"value": "", "n": "", "seed": ""})
    except FileNotFoundError:
        raise BadInput(f"{source}: expected the csv of clipmerge evaluate, found nothing there") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise BadInput(f"{source}: expected a csv, found {error}") from None
    rows = results.tidy(rows)
    if "model" not in rows or not (rows.method == "decoupled").any():
        raise BadInput(f"{source}: expected the csv of clipmerge evaluate, found other rows")
    with files.atomic(out) as partial:
        partial.write_bytes(figures.render(draw(rows), kind))
