"""Learning without forgetting: each task's start teaches, on the task's own images; plain, or on sentences of noise.

The teacher is asked about the training batch itself. ZSCL's code draws its images from a second loader over the same
data, so there they are other images than those of the cross-entropy; here a step shows half as many.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clipmerge.clip import training
from clipmerge.study.baselines import losses, reference, sequential
from clipmerge.study.baselines.sequential import Change, Task
from clipmerge.study.cache.step import Step
from clipmerge.study.condu.contract import Session, method

WORDS = 10  # tokens of a random sentence


@dataclass(frozen=True)
class Options:
    """temperature: of distillation, T (ZSCL's scripts: 2)."""

    temperature: float = 2.0


@dataclass(frozen=True)
class VirtualOptions(Options):
    """sentences: of random tokens, how many (ZSCL's code: 1,000)."""

    sentences: int = 1000


@method("lwf", answers="single", chain=True)
def keep(session: Session) -> Step:
    """The model, further along its chain."""
    return sequential.link(session, learn, session.options(Options))


@method("lwf-vr", answers="single", chain=True)
def keep_virtual(session: Session) -> Step:
    """The model, further along its chain."""
    return sequential.link(session, learn_virtual, session.options(VirtualOptions))


def learn(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: one task under the eyes of its start."""
    sequential.tune(out, config, inputs, seed, own_texts)


def learn_virtual(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: one task under the eyes of its start, which is asked in sentences that mean nothing."""
    sequential.tune(out, config, inputs, seed, random_texts)


def own_texts(task: Task) -> Change:
    """``CE + KD_T(θ_{t−1} → θ)`` on the task's own images and class texts, both ways."""
    tokens = reference.class_tokens(task.name, task.data)
    return sequential.distil_on_batch(task, tokens, task.config["options"]["temperature"])


def random_texts(task: Task) -> Change:
    """LwF with a virtual vocabulary: the texts are sentences of random tokens (VR-LwF, Ding et al.)."""
    options = task.config["options"]
    frame = reference.class_tokens(task.name, task.data)[0]
    tokens = losses.random_sentences(options["sentences"], WORDS, frame, training.generator(task.seed, 0))
    return sequential.distil_on_batch(task, tokens, options["temperature"])
