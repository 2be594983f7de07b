"""Experts: the base fine-tuned on one task, as cached steps that leave a delta.

`full` tunes all weights (what ``experts.step`` gives), `lora` low-rank factors, `fewshot` on a few images a class.
"""

from clipmerge.study.experts.full import (
    DELTA,
    base_inputs,
    continual,
    dataset,
    delta,
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
    "base_inputs",
    "continual",
    "dataset",
    "delta",
    "label",
    "learner",
    "leave",
    "step",
    "task_config",
    "tune",
    "usable",
]
