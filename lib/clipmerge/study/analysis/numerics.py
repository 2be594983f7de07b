"""Do numbers depend on how they are computed? The paper compares two makes of accelerator (Table 6); a laptop has other
ways to compute the same: number formats, threads, processes, sizes of batches.

Each way is a step that leaves the logits of decoupled experts; `compare` sets two of them side by side.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from clipmerge import files
from clipmerge.clip import evaluate, models, prompts
from clipmerge.clip.datasets import Dataset
from clipmerge.merge import deltas
from clipmerge.study import experts
from clipmerge.study.cache import scheduler
from clipmerge.study.condu import sessions

LOGITS = "logits.safetensors"


@dataclass(frozen=True)
class Way:
    """How logits are computed: the reference unless something is said."""

    model: str = "fp32"  # dtype of weights and activations; "bf16" is autocast, as a profile's `autocast`
    delta: str = "fp32"  # dtype in which the delta was kept
    threads: int = 1
    processes: int = 0  # 0: in this process
    batch: int = evaluate.BATCH


WAYS: Mapping[str, Way] = {
    "fp32": Way(),
    "again": Way(),
    "processes": Way(processes=2),
    "threads": Way(threads=2),
    "batch": Way(batch=evaluate.BATCH // 4),
    "fp64": Way(model="fp64"),
    "bf16-delta": Way(delta="bf16"),
    "bf16": Way(model="bf16"),
}


def read(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: logits of some tasks' test images by their decoupled experts, in one way."""
    way = Way(**config["way"])
    jobs = [(config["model"], task, number, str(inputs["session"]), way) for number, task in config["tasks"]]
    backend = "processes" if way.processes else "serial"
    found = scheduler.map(_logits, jobs, workers=max(1, way.processes), backend=backend)
    names = [task["task"] for _, task in config["tasks"]]
    files.save_tensors(out / LOGITS, dict(zip(names, found, strict=True)))


def _logits(job: tuple) -> Tensor:
    name, task, number, session, way = job
    model, data = models.create(name), experts.dataset(task)
    change = sessions.bank({"session": Path(session)})(number)
    if way.delta == "bf16":
        change = {key: value.bfloat16().float() for key, value in change.items()}
    model.load_state_dict(deltas.apply_delta(model.state_dict(), change))
    return logits(model, name, data, way)


@torch.no_grad()
def logits(model: nn.Module, name: str, data: Dataset, way: Way) -> Float[Tensor, "n classes"]:
    """100·cos of the test images with the task's own head, computed in one way; fp64 of whatever came out."""
    dtype = torch.float64 if way.model == "fp64" else torch.float32
    half = torch.autocast("cpu", torch.bfloat16) if way.model == "bf16" else nullcontext()
    model = model.to(dtype)
    with _threads(way.threads), half:
        head = prompts.head(model, name, data.classes, data.templates)
        parts = [model.encode_image(models.pixels(x, model).to(dtype)) for x in data.test_images.split(way.batch)]
        z = F.normalize(torch.cat(parts), dim=-1)
        return (evaluate.SCALE * z @ head.T).double()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compare(
    reference: Float[Tensor, "n classes"], other: Float[Tensor, "n classes"], labels: Int64[Tensor, " n"]
) -> dict[str, float]:
    """Largest difference of a logit, answers that changed (per cent), accuracy and its difference (points)."""
    accuracy = [evaluate.accuracy(x, labels) for x in (reference, other)]
    return {
        "logit_difference": (reference - other).abs().max().item(),
        "answers_changed": 100 * (reference.argmax(1) != other.argmax(1)).double().mean().item(),
        "accuracy": accuracy[1],
        "accuracy_difference": accuracy[1] - accuracy[0],
    }
