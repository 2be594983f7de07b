"""Experts: the base fine-tuned on one task, as cached steps that leave a delta.

`full` tunes all weights (what ``experts.step`` gives), on all images of a task or on a few of each class, `lora`
low-rank factors.
"""

from clipmerge.study.experts.full import (
    DELTA,
    LOG,
    base_inputs,
    config,
    dataset,
    delta,
    draw,
    label,
    learner,
    leave,
    step,
    task_config,
    tune,
    usable,
)

__all__ = [
    "DELTA",
    "LOG",
    "base_inputs",
    "config",
    "dataset",
    "delta",
    "draw",
    "label",
    "learner",
    "leave",
    "step",
    "task_config",
    "tune",
    "usable",
]
