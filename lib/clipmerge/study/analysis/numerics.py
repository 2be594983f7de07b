"""Do numbers depend on how they are computed? The paper compares two makes of accelerator (Table 6); a laptop has other
ways to compute the same: number formats, threads, processes, sizes of batches.

Each way is a step that leaves the logits of decoupled experts; `compare` sets two of them side by side.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from clipmerge import files
from clipmerge.clip import device, evaluate, models, prompts
from clipmerge.clip.datasets import Dataset
from clipmerge.merge import deltas
from clipmerge.study import experts, profiles, results
from clipmerge.study.cache import scheduler, store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import protocol, sessions
from clipmerge.study.profiles import Profile

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


def run(profile: Profile) -> pd.DataFrame:
    """Table 6: what changes if the same numbers are computed in another of `WAYS` (column ``way``)."""
    order = profiles.order(profile)
    tasks = {task: experts.task_config(profile, task) for task in profile.inside.parity}
    numbered = [(order.index(task), config) for task, config in tasks.items()]
    steps = {}
    for way, seed in ((way, seed) for way in WAYS for seed in profile.seeds):
        fixed = {"model": profile.model, "compute": profile.compute.numerics}
        config = fixed | {"tasks": numbered, "way": WAYS[way], "repeat": way}
        inputs = experts.base_inputs(profile.model) | {"session": protocol.kept(profile, "condu-ft", seed)[-1]}
        steps[way, seed] = Step(read, f"parity/{way}", config, inputs)
    store.build(steps.values())  # one after the other: a step starts processes of its own
    labels = {task: experts.dataset(config).test_labels for task, config in tasks.items()}
    found = {which: files.load_tensors(step.folder / LOGITS) for which, step in steps.items()}
    frames = []
    for (way, seed), logits in found.items():
        for task, truth in labels.items():
            fixed = {"method": "condu-ft", "seed": seed, "n": len(truth), "model": profile.model, "way": way}
            for metric, value in compare(found["fp32", seed][task], logits[task], truth).items():
                frames.append(results.rows({task: value}, metric=metric, **fixed))
    return pd.concat(frames, ignore_index=True)


def read(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: logits of some tasks' test images by their decoupled experts, in one way."""
    way = Way(**config["way"])
    fixed = (config["model"], config["compute"], str(inputs["session"]), way)
    jobs = [(task, number, *fixed) for number, task in config["tasks"]]
    backend = "processes" if way.processes else "serial"
    found = scheduler.map(_logits, jobs, workers=max(1, way.processes), backend=backend)
    names = [task["task"] for _, task in config["tasks"]]
    files.save_tensors(out / LOGITS, dict(zip(names, found, strict=True)))


def _logits(job: tuple) -> Tensor:
    task, number, name, numerics, session, way = job
    torch.set_num_threads(way.threads)  # the scheduler puts the number back
    change = sessions.bank({"session": Path(session)})(number)
    if way.delta == "bf16":
        change = {key: value.bfloat16().float() for key, value in change.items()}
    with device.using(numerics):
        model = models.create(name)
        model.load_state_dict(deltas.apply_delta(models.state(model), change))
        return logits(model, name, experts.dataset(task), way)


@torch.no_grad()
def logits(model: nn.Module, name: str, data: Dataset, way: Way) -> Float[Tensor, "n classes"]:
    """100·cos of the test images with the task's own head, computed in one way; fp64 of whatever came out."""
    dtype = torch.float64 if way.model == "fp64" else torch.float32
    half = torch.autocast(device.here().type, torch.bfloat16) if way.model == "bf16" else nullcontext()
    model = model.to(dtype)
    with half:
        head = prompts.head(model, name, data.classes, data.templates)
        parts = [model.encode_image(models.pixels(x, model).to(dtype)) for x in data.test_images.split(way.batch)]
        z = F.normalize(torch.cat(parts), dim=-1)
        return (evaluate.SCALE * z @ head.T).double().cpu()


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
