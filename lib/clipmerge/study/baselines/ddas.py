"""MoE-Adapters' gate (DDAS): an autoencoder per task recognises that task's images, or else CLIP answers zero-shot.

Simplified: the autoencoders read the frozen base's own image features instead of AlexNet's, decide image by image
instead of batch by batch, and a task's threshold is a quantile of its error on validation images, where the authors
set one number (0.0655) for all.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from clipmerge import files
from clipmerge.clip import evaluate, models, training
from clipmerge.study import experts
from clipmerge.study.baselines import moe_adapters, reference
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import grading, protocol
from clipmerge.study.profiles import Profile

GATE, RATE, BATCH = "gate.safetensors", 3e-3, 128


def gate(profile: Profile, task: str, tasks: Sequence[str], seed: int) -> Step:
    """The autoencoder of one task; it depends on no other and on no order."""
    settings = profile.baselines
    config = {"task": task, "code": settings.gate_code, "steps": settings.gate_steps, "q": settings.gate_quantile}
    return Step(fit, f"moe-adapters/gate/{task}", config, {"train": reference.train_features(profile, tasks)}, seed)


def autoencoder(dim: int, code: int) -> nn.Sequential:
    """One hidden layer, narrower than the features."""
    return nn.Sequential(nn.Linear(dim, code), nn.ReLU(), nn.Linear(code, dim))


def error(net: nn.Module, z: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
    """Mean squared error of each reconstruction, features scaled to unit mean square."""
    x = z * z.shape[1] ** 0.5
    return (net(x) - x).square().mean(1)


def fit(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: train on the task's images except the validation ones, whose errors set the threshold."""
    train, task = files.load_tensors(inputs["train"] / reference.FEATURES), config["task"]
    z, held = train[f"z.{task}"], train[f"held.{task}"]
    own = torch.ones(len(z), dtype=torch.bool).index_fill_(0, held, False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = autoencoder(z.shape[1], config["code"])
    optimizer, fitted = torch.optim.Adam(net.parameters(), lr=RATE), z[own]
    for step in range(config["steps"]):
        pick = torch.randint(len(fitted), (BATCH,), generator=training.generator(seed, step))
        optimizer.zero_grad()
        error(net, fitted[pick]).mean().backward()
        optimizer.step()
    with torch.no_grad():
        threshold = error(net, z[held] if len(held) else fitted).double().quantile(config["q"])
    files.save_tensors(out / GATE, {**net.state_dict(), "threshold": threshold[None]})


@torch.no_grad()
def route(gates: Sequence[Mapping[str, Tensor]], z: Float[Tensor, "n dim"]) -> Int64[Tensor, " n"]:
    """The task whose autoencoder errs least on each image, or −1 if even that exceeds its threshold."""
    errors, thresholds = [], torch.cat([gate["threshold"] for gate in gates])
    for each in gates:
        net = autoencoder(z.shape[1], len(each["0.bias"]))
        net.load_state_dict({key: value for key, value in each.items() if key != "threshold"})
        errors.append(error(net, z).double())
    least, task = torch.stack(errors, 1).min(1)
    return torch.where(least <= thresholds[task], task, -1)


def plan(profile: Profile, order: Sequence[str], seed: int) -> list[Step]:
    """The grading step of every session."""
    grades, gates = [], [gate(profile, task, order, seed) for task in order]
    config = {"model": profile.model, "tasks": [experts.task_config(profile, task) for task in order]}
    config["shape"] = [profile.baselines.moe_experts, profile.baselines.moe_rank, len(order)]
    fixed = experts.base_inputs(profile.model) | {"reading": protocol.reading(profile, order)}
    for t, link in enumerate(moe_adapters.chain(profile, order, seed)):
        seen = {f"gate.{i:02d}": each for i, each in enumerate(gates[: t + 1])}
        grades.append(Step(grade, f"grade/moe-adapters/{t + 1:02d}", config, fixed | seen | {"adapters": link}))
    return grades


def grade(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: accuracy on every task, each image answered with the router its gate picks, or zero-shot."""
    name, model = config["model"], models.create(config["model"])
    mixtures = moe_adapters.attach(model, *config["shape"], seed=0)
    mixtures.load_state_dict(files.load_tensors(inputs["adapters"] / moe_adapters.ADAPTERS))
    model.eval()
    about = files.load_tensors(inputs["reading"] / grading.READING)
    gates = [files.load_tensors(inputs[key] / GATE) for key in sorted(inputs) if key.startswith("gate.")]
    tasks = [experts.dataset(task) for task in config["tasks"]]
    answers = {data.name: about[f"logits.{data.name}"].clone() for data in tasks}
    routes = {data.name: route(gates, about[f"z.{data.name}"]) for data in tasks}
    for t in range(len(gates)):
        moe_adapters.choose(mixtures, t)
        for data in tasks:
            rows = routes[data.name] == t
            if rows.any():
                answers[data.name][rows] = evaluate.test_logits(model, name, data, rows)
    accuracy = {data.name: evaluate.accuracy(answers[data.name], data.test_labels) for data in tasks}
    own = {data.name: 100 * (routes[data.name] == t).double().mean().item() for t, data in enumerate(tasks)}
    sizes = {data.name: len(data.test_labels) for data in tasks}
    files.write_json(out / grading.ACCURACY, {"accuracy": accuracy, "n": sizes, "own": own})
