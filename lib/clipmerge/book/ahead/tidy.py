"""`clipmerge gc`: free the cache of what was only a step on the way."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from clipmerge.book.ahead.planning import Graph
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step


def spare(graph: Graph) -> list[Step]:
    """Steps on the way: cached, holding tensors, asked for by no notebook, and needed by no step that is still to do.

    What was graded from them stays. Should the code or a profile change, they are computed again when they are needed.
    """
    kept: set[Path] = {step.folder for each in graph.asked for step in each.steps}
    for step in graph.to_do():
        kept |= {value.folder for value in step.inputs.values() if isinstance(value, Step)}
    return [step for step in graph.steps if step.folder not in kept and store.there(step) and _tensors(step)]


def _tensors(step: Step) -> bool:
    return any(name.endswith(".safetensors") for name in store.record(step)["files"])


def freed_mb(steps: Iterable[Step]) -> float:
    """What their files take."""
    return sum(about["bytes"] for step in steps for about in store.record(step)["files"].values()) / 1e6


def remove(steps: Iterable[Step]) -> None:
    """Delete their folders; each is renamed first, so that no half of one is ever met."""
    for step in steps:
        aside = step.folder.with_name(f".{step.folder.name}.gone")
        step.folder.rename(aside)
        shutil.rmtree(aside)
