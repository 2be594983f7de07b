"""How the nano base models were made: contrastive pretraining of CLIP on the pool.

    python -m clipmerge.clip.pretrain nano-s                   # resumable; writes data_manifests/weights/nano-s.*
    python -m clipmerge.clip.pretrain nano-s --recipe narrow   # by pretraining/narrow.yaml; writes nano-s-narrow.*

The loss is CLIP's, with one change: pictures of the same name in a batch count as matches of each other's captions
(62 letters and digits would otherwise be their own false negatives).
"""

import argparse
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
import yaml
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from clipmerge import files, paths
from clipmerge.clip import models, pairs, pool, training, web
from clipmerge.clip.pairs import Pairs
from clipmerge.clip.pairs import draw as draw  # also known as pretrain.draw
from clipmerge.errors import BadInput

CHECKPOINT_EVERY = 100


def recipe(name: str = "recipe") -> Mapping:
    """A pretraining recipe: ``data_manifests/pretraining/<name>.yaml``."""
    return yaml.safe_load((paths.manifests() / "pretraining" / f"{name}.yaml").read_text(encoding="utf8"))


@dataclass(frozen=True)
class Corpus:
    """What a recipe trains on: drawings, and the pictures that `web` of every batch are of (none without a share)."""

    pictures: pool.Pool
    pages: web.Web | None
    web: float
    noise: float

    def batch(self, size: int, generator: torch.Generator) -> Pairs:
        """`size` pairs, drawn, changed and captioned afresh."""
        count = round(self.web * size)
        drawn = pairs.drawings(self.pictures, size - count, generator)
        return drawn + web.draw(self.pages, count, self.noise, generator) if count else drawn


def corpus(config: Mapping) -> tuple[Corpus, dict[str, Pairs]]:
    """What a recipe trains on, and the fixed pairs it is watched by, which are never trained on.

    Without ``watch`` in the recipe nothing is held out, without ``web`` the pool is all there is.
    """
    pictures, pages, watched = pool.load(), None, {}
    if "watch" in config:
        pictures, held = pairs.split(pictures, config["watch"]["drawings"])
        watched["drawings"] = pairs.each(held, training.generator(0, 0))
    if "web" in config:
        pages, held = web.split(web.load())
        watched["web"] = web.describe(held, list(range(len(held.label))), 0.0, training.generator(0, 0))
    return Corpus(pictures, pages, config.get("web", 0.0), config.get("noise", 0.0)), watched


@torch.no_grad()
def watch(model: nn.Module, tokenize: Callable, watched: Mapping[str, Pairs]) -> dict[str, float]:
    """Loss on the held-out pairs, and the share of their images whose nearest caption has the right name."""
    found = {}
    for name, sample in watched.items():
        image = models.encode_image(model, sample.images)
        text = models.encode_text(model, tokenize(sample.captions))
        hits = [sample.names[i] == own for i, own in zip((image @ text.T).argmax(1), sample.names, strict=True)]
        found[f"{name}_loss"] = round(contrastive(image, text, model.logit_scale.exp(), sample.names).item(), 4)
        found[f"{name}_recall"] = round(sum(hits) / len(hits), 4)
    return found


def contrastive(
    image: Float[Tensor, "n dim"], text: Float[Tensor, "n dim"], scale: Tensor, names: Sequence[Hashable]
) -> Tensor:
    """CLIP's symmetric cross-entropy; targets are shared evenly among pairs of the same name."""
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    ids = torch.tensor([number[name] for name in names])
    target = (ids[:, None] == ids[None]).float()
    target = target / target.sum(1, keepdim=True)
    logits = scale * image @ text.T
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def rate(step: int, steps: int, config: Mapping) -> float:
    """Warm-up and the first part of a cosine as long as `horizon` runs, then from `cooldown` on linearly to zero."""
    start = round(config["cooldown"] * steps)
    cosine = training.rate(min(step, start), round(config["horizon"] * steps), config["lr"], config["warmup"])
    return cosine if step <= start else cosine * (steps - step) / (steps - start)


def run(
    name: str, out: Path, config: Mapping, steps: int | None = None, progress: bool = True, stop: int | None = None
) -> list[dict]:
    """Pretrain `name`; writes ``<out>/<name>.safetensors`` and a checkpoint beside it, returns the log.

    `steps` shortens the run and its schedule with it, `stop` ends it early on the schedule of the whole. An interrupted
    or stopped run continues at its last checkpoint. Every ``watch.every`` steps the log tells how held-out pairs fare;
    at the steps of ``snapshots`` the weights are kept as ``<name>-<step>.safetensors``.
    """
    steps, batch = steps or config["steps"], config["batch"]
    end = min(stop or steps, steps)
    (source, watched), tokenize = corpus(config), models.tokenizer(name)
    model = models.create(name, pretrained=None, seed=config["seed"]).train()
    optimizer = training.adamw(model, config["lr"], config["weight_decay"], tuple(config["betas"]))
    checkpoint = out / f"{name}.checkpoint.safetensors"
    start, log = training.resume(checkpoint, model, optimizer)
    for step in tqdm(range(start, end), initial=start, total=end, desc=name, disable=not progress):
        began = time.perf_counter()
        drawn = source.batch(batch, training.generator(config["seed"], step))
        image = models.encode_image(model, drawn.images)
        text = models.encode_text(model, tokenize(drawn.captions))
        loss = contrastive(image, text, model.logit_scale.exp(), drawn.names)
        training.descend(model, optimizer, loss, rate(step, steps, config), config["clip_norm"])
        training.cap_scale(model)
        log.append({"step": step, "loss": round(loss.item(), 4), "seconds": round(time.perf_counter() - began, 3)})
        if "watch" in config and ((step + 1) % config["watch"]["every"] == 0 or step + 1 == steps):
            log[-1] |= watch(model, tokenize, watched)
        if step + 1 in config.get("snapshots", ()):
            files.save_tensors(out / f"{name}-{step + 1}.safetensors", model.state_dict())
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == end:
            training.save(checkpoint, model, optimizer, step + 1, log)
    files.save_tensors(out / f"{name}.safetensors", model.state_dict())
    return log


def publish(name: str, out: Path, log: list[dict], config: Mapping, folder: Path, tag: str = "") -> None:
    """Put finished weights where `models.create` finds them, with their manifest and training curve.

    They are the weights of ``<name>``, or of ``<name>/<tag>`` beside these.
    """
    weights, stem = files.load_tensors(out / f"{name}.safetensors"), models.stem(f"{name}/{tag}")
    _place(name, stem, weights, log, config, folder)
    curve = pd.DataFrame(log).drop(columns="seconds")
    files.write_text(folder / f"{stem}.curve.csv", curve.to_csv(index=False, lineterminator="\n"))


def publish_snapshot(name: str, step: int, out: Path, log: list[dict], config: Mapping, folder: Path) -> None:
    """Put the weights after `step` steps of a run beside its last ones, as ``<name>/<step>``, to compare bases.

    They are kept in fp16, at half the size; a model of them computes in fp32 like any other.
    """
    path = out / f"{name}-{step}.safetensors"
    if not path.exists():
        raise BadInput(f"{path}: expected a snapshot that pretraining has kept, found none")
    half = {key: value.half() for key, value in files.load_tensors(path).items()}
    _place(name, models.stem(f"{name}/{step}"), half, log[:step], config, folder)


def _place(
    name: str, stem: str, weights: Mapping[str, Tensor], log: list[dict], config: Mapping, folder: Path
) -> None:
    """Write weights and the manifest that says where they come from."""
    files.save_tensors(folder / f"{stem}.safetensors", weights)
    manifest = {
        "model": name,
        "parameters": sum(t.numel() for t in weights.values()),
        "sha256": files.sha256(folder / f"{stem}.safetensors"),
        "licence": "MIT (weights); trained on the openly licensed pool of data_manifests/pretraining/pool.yaml",
        "recipe": dict(config),
        "pool": files.digest(pool.recipe()),
        "torch": torch.__version__.split("+")[0],
        "pairs": len(log) * config["batch"],
        "wall_minutes": round(sum(row["seconds"] for row in log) / 60, 1),
    }
    if "web" in config:
        manifest["licence"] += " and the web sides of data_manifests/datasets"
        manifest["web"] = web.digest(web.load())
    files.write_json(folder / f"{stem}.json", manifest)


def main() -> None:
    """Command line: pretrain the named models and publish their weights."""
    parser = argparse.ArgumentParser(description="Pretrain the nano base models on the pool (resumable).")
    parser.add_argument("models", nargs="*", default=list(models.NANO), help="models to train (default: all)")
    parser.add_argument("--recipe", help="another recipe of data_manifests/pretraining; its name is the weights' tag")
    parser.add_argument("--snapshot", type=int, nargs="*", default=[], help="publish the weights of these steps too")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tag = arguments.recipe or ""
    config, out = recipe(tag or "recipe"), paths.cache("pretrain", tag)
    out.mkdir(parents=True, exist_ok=True)
    for name in arguments.models:
        log = run(name, out, config)
        publish(name, out, log, config, paths.manifests() / "weights", tag)
        for step in arguments.snapshot:
            publish_snapshot(name, step, out, log, config, paths.manifests() / "weights")


if __name__ == "__main__":
    main()
