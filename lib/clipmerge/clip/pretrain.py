"""How the nano base models were made: contrastive pretraining of CLIP on the pool.

    python -m clipmerge.clip.pretrain nano-s          # resumable; writes data_manifests/weights/nano-s.*

The loss is CLIP's, with one change: pictures of the same name in a batch count as matches of each other's captions
(62 letters and digits would otherwise be their own false negatives).
"""

import argparse
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from jaxtyping import Float, Int64
from torch import Tensor
from tqdm import tqdm

from clipmerge import files, paths
from clipmerge.clip import augment, models, pool, training

CHECKPOINT_EVERY = 100


def recipe() -> Mapping:
    """The pretraining recipe, ``data_manifests/pretraining/recipe.yaml``."""
    return yaml.safe_load((paths.manifests() / "pretraining" / "recipe.yaml").read_text(encoding="utf8"))


def draw(
    pictures: pool.Pool, size: int, generator: torch.Generator
) -> tuple[Int64[Tensor, " n"], list[str], list[str], list[str]]:
    """Indices, kinds, names and captions of one batch; the pool's weights say how often each kind is drawn."""
    weights = pool.recipe()["weights"]
    shares = torch.tensor(list(weights.values()))
    kinds = [list(weights)[i] for i in torch.multinomial(shares, size, replacement=True, generator=generator)]
    dice = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    choices = {kind: pictures.of(kind) for kind in set(kinds)}
    index = torch.stack([choices[kind][dice.randrange(len(choices[kind]))] for kind in kinds])
    captions = [
        dice.choice(pool.recipe()["templates"][kind]).format(dice.choice(pictures.names[i]))
        for kind, i in zip(kinds, index.tolist(), strict=True)
    ]
    return index, kinds, [pictures.names[i][0] for i in index.tolist()], captions


def contrastive(
    image: Float[Tensor, "n dim"], text: Float[Tensor, "n dim"], scale: Tensor, names: Sequence[str]
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
    or stopped run continues at its last checkpoint.
    """
    steps, batch = steps or config["steps"], config["batch"]
    end = min(stop or steps, steps)
    pictures, tokenize = pool.load(), models.tokenizer(name)
    model = models.create(name, pretrained=None, seed=config["seed"]).train()
    optimizer = training.adamw(model, config["lr"], config["weight_decay"], tuple(config["betas"]))
    checkpoint = out / f"{name}.checkpoint.safetensors"
    start, log = training.resume(checkpoint, model, optimizer)
    for step in tqdm(range(start, end), initial=start, total=end, desc=name, disable=not progress):
        began = time.perf_counter()
        generator = training.generator(config["seed"], step)
        index, kinds, names, captions = draw(pictures, batch, generator)
        image = models.encode_image(model, augment.images(pictures, index, kinds, generator))
        text = models.encode_text(model, tokenize(captions))
        loss = contrastive(image, text, model.logit_scale.exp(), names)
        training.descend(model, optimizer, loss, rate(step, steps, config), config["clip_norm"])
        training.cap_scale(model)
        log.append({"step": step, "loss": round(loss.item(), 4), "seconds": round(time.perf_counter() - began, 3)})
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == end:
            training.save(checkpoint, model, optimizer, step + 1, log)
    files.save_tensors(out / f"{name}.safetensors", model.state_dict())
    return log


def publish(name: str, out: Path, log: list[dict], config: Mapping, folder: Path) -> None:
    """Put finished weights where `models.create` finds them, with their manifest and training curve."""
    weights = files.load_tensors(out / f"{name}.safetensors")
    files.save_tensors(folder / f"{name}.safetensors", weights)
    manifest = {
        "model": name,
        "parameters": sum(t.numel() for t in weights.values()),
        "sha256": files.sha256(folder / f"{name}.safetensors"),
        "licence": "MIT (weights); trained on the openly licensed pool of data_manifests/pretraining/pool.yaml",
        "recipe": dict(config),
        "pool": files.digest(pool.recipe()),
        "torch": torch.__version__.split("+")[0],
        "pairs": len(log) * config["batch"],
        "wall_minutes": round(sum(row["seconds"] for row in log) / 60, 1),
    }
    files.write_json(folder / f"{name}.json", manifest)
    rows = [f"{row['step']},{row['loss']}" for row in log]
    files.write_text(folder / f"{name}.curve.csv", "\n".join(["step,loss", *rows]) + "\n")


def main() -> None:
    """Command line: pretrain the named models and publish their weights."""
    parser = argparse.ArgumentParser(description="Pretrain the nano base models on the pool (resumable).")
    parser.add_argument("models", nargs="*", default=list(models.NANO), help="models to train (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    out, config = paths.cache("pretrain"), recipe()
    out.mkdir(parents=True, exist_ok=True)
    for name in arguments.models:
        log = run(name, out, config)
        publish(name, out, log, config, paths.manifests() / "weights")


if __name__ == "__main__":
    main()
