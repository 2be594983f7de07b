"""Step functions for LoRA: multiply an expert's factors out, grade experts whose factors were unified.

A LoRA expert's ``delta.safetensors`` holds what tuning changed in A and in B, from the initialisation that all experts
of a seed share. `expand` turns it into a delta of the dense weights. `sessions` unifies either kind.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from clipmerge import files
from clipmerge.clip import lora
from clipmerge.merge import deltas
from clipmerge.study import experts
from clipmerge.study.condu import grading, sessions
from clipmerge.study.experts.lora import start


def rebase(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: an expert's factors minus *another* initialisation, as the authors' code takes its deltas."""
    tuned = deltas.apply_delta(start(config | {"init_seed": config["true_seed"]}), experts.delta(inputs["expert"]))
    files.save_tensors(out / experts.DELTA, deltas.delta(tuned, start(config)))


def expand(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: the delta s · B A of the dense weights, from the base, that an expert's factors amount to."""
    files.save_tensors(out / experts.DELTA, multiply(start(config), experts.delta(inputs["expert"])))


def multiply(begin: Mapping[str, Tensor], change: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """s · (B₀ + δB)(A₀ + δA) for all layers: the dense delta of factors that have moved by `change`."""
    return lora.product(deltas.apply_delta(begin, change))


@contextmanager
def multiplied(config: Mapping, session: Path, count: int) -> Iterator[dict[str, Path]]:
    """The first `count` experts of a session that unified factors, as folders of dense deltas, for a while."""
    begin, unified = start(config), sessions.bank({"session": session})
    with tempfile.TemporaryDirectory() as scratch:
        folders = {f"expert.{i:02d}": Path(scratch, f"{i:02d}") for i in range(count)}
        for i, folder in enumerate(folders.values()):
            folder.mkdir()
            files.save_tensors(folder / experts.DELTA, multiply(begin, unified(i)))
        yield folders


def grade_factors(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: as `grading.grade_bank`, for a session that unified A and B, not their product."""
    others = {name: path for name, path in inputs.items() if name != "session"}
    with multiplied(config, inputs["session"], config["seen"]) as folders:
        grading.grade_bank(out, config=config, inputs=others | folders, seed=seed)
