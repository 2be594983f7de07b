"""Somebody's own experts, graded: base, each expert, each one decoupled, all together with routing, and plain merges.

Nothing is trained. Models come through `clip.hub`, images from a manifest's dataset or from a folder of class folders;
one network is in memory at a time, and of a folder's images one batch.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from clipmerge import files
from clipmerge.clip import datasets, evaluate, hub, models, prompts
from clipmerge.clip.hub.views import View
from clipmerge.errors import BadInput
from clipmerge.merge import apply_delta, condu, folder, streaming
from clipmerge.study import results
from clipmerge.study.condu import voting

TEMPLATE = "a photo of a {}."  # for folders, which bring none
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
State = Mapping[str, Tensor]
Batches = Callable[[int], Iterator[Tensor]]  # image size -> batches of uint8[b, h, w, 3]


@dataclass(frozen=True)
class Part:
    """Images, in batches whenever they are wanted, and their labels."""

    batches: Batches
    labels: Int64[Tensor, " n"]


@dataclass(frozen=True)
class Task:
    """What models are graded on; `train`, if there is any, gives the prototypes their image half."""

    name: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    test: Part
    train: Part | None


def task(reference: str) -> Task:
    """A dataset by its manifest's name, or a folder of class folders (or of `train` and `test`, which hold them)."""
    path = Path(reference)
    if not path.is_dir():
        data = datasets.load(reference)
        sides = ((data.train_images, data.train_labels), (data.test_images, data.test_labels))
        train, test = (Part(lambda size, x=images: iter(x.split(evaluate.BATCH)), y) for images, y in sides)
        return Task(data.name, data.classes, data.templates, test, train if len(train.labels) else None)
    side = path / "test" if (path / "test").is_dir() else path
    names = tuple(sorted(p.name for p in side.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not names:
        raise BadInput(f"{side}: expected a folder for every class, found none")
    learnt = path / "train"
    train = _part(learnt, names) if side != path and learnt.is_dir() else None
    return Task(path.resolve().name, tuple(n.replace("_", " ") for n in names), (TEMPLATE,), _part(side, names), train)


def _part(side: Path, names: Sequence[str]) -> Part:
    found = [
        (path, label)
        for label, name in enumerate(names)
        for path in sorted((side / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not found:
        raise BadInput(f"{side}: expected images ({', '.join(SUFFIXES)}) in its class folders, found none")

    def batches(size: int) -> Iterator[Tensor]:
        for start in range(0, len(found), evaluate.BATCH):
            yield torch.stack([_image(path, size) for path, _ in found[start : start + evaluate.BATCH]])

    return Part(batches, torch.tensor([label for _, label in found]))


def _image(path: Path, size: int) -> Tensor:
    """CLIP's own way: the shorter side to `size`, bicubic, and the middle of it. uint8[size, size, 3]."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError):
        raise BadInput(f"{path}: expected an image, found something else") from None
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    return torch.from_numpy(np.asarray(image).copy())


@dataclass(frozen=True)
class Network:
    """A CLIP without weights yet, and the name whose tokenizer it uses."""

    model: nn.Module
    tokens: str

    def load(self, weights: State) -> nn.Module:
        """The network with these weights, on its device."""
        return models.load(self.model, {name: x.float() for name, x in weights.items()}, "the model")


def network(base: View, spec: str | None, device: str) -> Network:
    """The network of a base: by its own config, or as `spec` says (``nano-s``, ``ViT-B-32-quickgelu``).

    Raises BadInput where neither says, because heads and activation do not show in weights.
    """
    made = base.meta.get("architecture")
    if spec is None and not made:
        raise BadInput(f"{base.label}: expected a config beside the weights, or --model ARCHITECTURE, found neither")
    if spec is not None:
        return Network(models.create(spec if spec in models.NANO else f"{spec}/", None).to(device), spec)
    if not {"vision_cfg", "text_cfg"} <= made.keys():
        raise BadInput(f"{base.label}: expected a whole CLIP as the base, found the config of a tower")
    model = open_clip.CLIP(**made).eval()
    model.visual.image_mean = model.visual.image_std = None  # CLIP's own
    return Network(model.to(device), _tokens(base.label, made["text_cfg"]))


def _tokens(label: str, text: Mapping[str, int]) -> str:
    known = {(49408, 77): "ViT-B-32"}
    for name in models.NANO:
        nano = open_clip.get_model_config(name)["text_cfg"]
        known[nano["vocab_size"], nano["context_length"]] = name
    size = text["vocab_size"], text["context_length"]
    if size not in known:
        raise BadInput(f"{label}: expected a vocabulary and context among {', '.join(map(str, known))}, found {size}")
    return known[size]


def state(view: View) -> dict[str, Tensor]:
    """All tensors of a model, read into memory."""
    with view.reading() as read:
        return {n: torch.from_numpy(read(n, 0, prod(s)).copy()).reshape(s) for n, (s, _) in view.layout.items()}


def grade(
    unified: Path,
    data: Sequence[str],
    device: str = "cpu",
    techniques: Sequence[str] = ("average", "ties"),
    base: str | None = None,
    experts: Sequence[str] | None = None,
    model: str | None = None,
    nearest: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """Accuracies of everything that can be made of a unified model's experts, one row each (design §8).

    `unified` remembers its base and experts; `base` and `experts` say where they are now. method: `zero-shot`,
    `experts` and `decoupled` (with `model`, whose expert; metric `kept` is the share of its expert's accuracy),
    `routed` (base and the `nearest` decoupled experts of each image together, ConDU §4.3), and the techniques.
    """
    held = folder.load(unified)
    notes = files.read_json(unified / folder.NOTES) if (unified / folder.NOTES).exists() else {}
    origins = (base or notes.get("base"), experts or notes.get("experts"))
    if None in origins or len(origins[1]) != len(held.triggers):
        raise BadInput(f"{unified}: expected to know its base and {len(held.triggers)} experts: say --base, --experts")
    tasks = [task(reference) for reference in data]
    theta, tuned = hub.opened(*origins, say)
    net, weights = network(theta, model, device), state(theta)
    names = [trigger.name for trigger in held.triggers]
    frames, logits = [], {}
    for method, name, made in _models(held, theta, tuned, weights, techniques):
        say(f"grading {method} {name}".strip())
        found = {t.name: _logits(net.load(made), net.tokens, t) for t in tasks}
        if method in ("zero-shot", "decoupled"):
            logits[name] = found
        frames.append(_rows(method, name, found, tasks))
    net.load(weights)
    routed = _routed(net, tasks, names, logits, nearest)
    frames += [_rows("routed", "", routed, tasks)] if routed else []
    return results.tidy(_with_kept(pd.concat(frames, ignore_index=True), tasks))


def _models(
    held: condu.Unified, theta: View, tuned: Sequence[View], weights: State, techniques: Sequence[str]
) -> Iterator[tuple[str, str, State]]:
    yield "zero-shot", "", weights
    names = [trigger.name for trigger in held.triggers]
    for name, expert in zip(names, tuned, strict=True):
        yield "experts", name, state(expert)
    for name in names:
        yield "decoupled", name, apply_delta(weights, condu.decouple(held, name))
    for technique in techniques:
        with tempfile.TemporaryDirectory() as place:
            merged = streaming.merge(technique, theta, tuned, Path(place, "merged.safetensors"))
            yield technique, "", {n: x.clone() for n, x in files.load_tensors(merged).items()}


@torch.no_grad()
def _logits(model: nn.Module, tokens: str, task: Task) -> Float[Tensor, "n classes"]:
    head = prompts.head(model, tokens, task.classes, task.templates).cpu()
    return evaluate.SCALE * _features(model, task.test) @ head.T


def _features(model: nn.Module, part: Part) -> Float[Tensor, "n dim"]:
    size = model.visual.image_size
    size = size[0] if isinstance(size, tuple) else size
    return torch.cat([evaluate.features(model, images) for images in part.batches(size)])


def _rows(method: str, name: str, found: Mapping[str, Tensor], tasks: Sequence[Task]) -> pd.DataFrame:
    values = {t.name: evaluate.accuracy(found[t.name], t.test.labels) for t in tasks}
    counts = {t.name: len(t.test.labels) for t in tasks}
    if not name:
        values = results.with_mean(values)
    return results.rows(values, method=method, metric="accuracy", seed=None, n=counts, model=name)


def own(name: str, tasks: Sequence[str]) -> str | None:
    """The task of an expert: the one of its name, or the one its name ends with (`clip-vit-base-patch32_mnist`)."""
    lower = name.lower()
    ends = [t for t in tasks if lower == t.lower() or lower.endswith((f"_{t.lower()}", f"-{t.lower()}"))]
    return max(ends, key=len, default=None)


def _with_kept(frame: pd.DataFrame, tasks: Sequence[Task]) -> pd.DataFrame:
    more = [frame]
    for name in frame.model[frame.method == "decoupled"].unique():
        mine = own(name, [t.name for t in tasks])
        at = frame[(frame.model == name) & (frame.task == mine)].set_index("method").value
        if mine and at["experts"] > 0:
            kept = {mine: 100 * at["decoupled"] / at["experts"]}
            more.append(results.rows(kept, method="decoupled", metric="kept", seed=None, model=name))
    return pd.concat(more, ignore_index=True)


def _prototypes(net: Network, task: Task) -> Float[Tensor, "classes dim"]:
    text = evaluate.texts(net.model, net.tokens, task)
    if task.train is None:
        return F.normalize(text, dim=-1)
    return evaluate.prototypes(_features(net.model, task.train), task.train.labels, text)


def _routed(
    net: Network, tasks: Sequence[Task], names: Sequence[str], logits: Mapping[str, Mapping[str, Tensor]], nearest: int
) -> dict[str, Tensor]:
    """Logits of the base and the nearest experts together; {} where no expert's own task is among the data."""
    by_name = {t.name: t for t in tasks}
    known = [(name, own(name, list(by_name))) for name in names]
    known = [(name, mine) for name, mine in known if mine]
    if not known:
        return {}
    near = [_prototypes(net, by_name[mine]) for _, mine in known]
    found = {}
    for t in tasks:
        weights = voting.weights(evaluate.similarity(_features(net.model, t.test), near), nearest)
        members = torch.stack([logits[name][t.name] for name in ("", *(name for name, _ in known))], 1)
        found[t.name] = (weights[:, None] @ members)[:, 0]
    return found
