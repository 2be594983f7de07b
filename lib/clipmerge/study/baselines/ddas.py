"""MoE-Adapters' gate (DDAS): an autoencoder per task recognises that task's images, or else CLIP answers zero-shot.

One more autoencoder has learned reference images (theirs TinyImageNet, ours the pretraining pool): what it knows best
is answered zero-shot. Simplified: the autoencoders read the frozen base's own image features instead of AlexNet's,
decide image by image instead of batch by batch, and a task's threshold is a quantile of its error on validation images,
where the authors set one number (0.0655; 0.0585 at few shots) for all.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from clipmerge import files
from clipmerge.clip import datasets, training
from clipmerge.study import experts
from clipmerge.study.baselines import reference
from clipmerge.study.condu import features

GATE = "gate.safetensors"
RATE = 3e-3  # of Adam
BATCH = 128


def autoencoder(dim: int, code: int) -> nn.Sequential:
    """One hidden layer, narrower than the features."""
    return nn.Sequential(nn.Linear(dim, code), nn.ReLU(), nn.Linear(code, dim))


def error(net: nn.Module, z: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
    """Mean squared error of each reconstruction, features scaled to unit mean square."""
    x = z * z.shape[1] ** 0.5
    return (net(x) - x).square().mean(1)


def fit(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: train on the task's images except the validation ones, whose errors set the threshold."""
    data = experts.dataset(config)
    z = features.load(inputs["features"])[f"train.{data.name}"]
    index = experts.usable(config, data, seed)
    held = torch.isin(index, datasets.validation_split(data)[1])
    net = _trained(z[index[~held]], config, seed)
    with torch.no_grad():
        threshold = error(net, z[index[held] if held.any() else index]).double().quantile(config["q"])
    files.save_tensors(out / GATE, {**net.state_dict(), "threshold": threshold[None]})


def fit_reference(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: the same on reference images. Nobody needs its threshold: beyond it is zero-shot, too."""
    net = _trained(files.load_tensors(inputs["reference"] / reference.REFERENCE)["z"], config, seed)
    never = torch.tensor([torch.inf], dtype=torch.float64)
    files.save_tensors(out / GATE, {**net.state_dict(), "threshold": never})


def _trained(z: Float[Tensor, "n dim"], config: Mapping, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = autoencoder(z.shape[1], config["code"])
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    for step in range(config["steps"]):
        pick = torch.randint(len(z), (BATCH,), generator=training.generator(seed, step))
        optimizer.zero_grad()
        error(net, z[pick]).mean().backward()
        optimizer.step()
    return net


@torch.no_grad()
def route(gates: Sequence[Mapping[str, Tensor]], z: Float[Tensor, "n dim"]) -> Int64[Tensor, " n"]:
    """The task whose autoencoder errs least on each image; −1: even that errs too much, or it is the reference's.

    The first of the `gates` is the reference's, the others are those of task 0, 1 and so on.
    """
    errors = []
    thresholds = torch.cat([gate["threshold"] for gate in gates])
    for each in gates:
        net = autoencoder(z.shape[1], len(each["0.bias"]))
        net.load_state_dict({key: value for key, value in each.items() if key != "threshold"})
        errors.append(error(net, z).double())
    least, nearest = torch.stack(errors, 1).min(1)
    return torch.where(least <= thresholds[nearest], nearest - 1, -1)
