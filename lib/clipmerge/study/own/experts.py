"""Somebody's own experts, graded: base, each expert, each one decoupled, all together with routing, and plain merges.

Nothing is trained. Models come through `clip.hub`, images from a manifest's dataset or from a folder of class folders;
one network is in memory at a time, and of a folder's images one batch.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import open_clip
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clipmerge import files
from clipmerge.clip import device, evaluate, hub, models, prompts
from clipmerge.clip.hub.views import View
from clipmerge.errors import BadInput
from clipmerge.merge import apply_delta, condu, folder, streaming
from clipmerge.study import results
from clipmerge.study.condu import voting
from clipmerge.study.own.data import Part, Task, task

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Network:
    """A CLIP without weights yet, and the name whose tokenizer it uses."""

    model: nn.Module
    tokens: str

    def load(self, weights: State) -> nn.Module:
        """The network with these weights."""
        return models.load(self.model, {name: x.float() for name, x in weights.items()}, "the model")


def network(base: View, spec: str | None) -> Network:
    """The network of a base: by its own config, or as `spec` says (``nano-s``, ``ViT-B-32-quickgelu``).

    Raises BadInput where neither says, because heads and activation do not show in weights.
    """
    made = base.meta.get("architecture")
    if spec is None and not made:
        raise BadInput(f"{base.label}: expected a config beside the weights, or --model ARCHITECTURE, found neither")
    if spec is not None:
        return Network(models.create(spec if spec in models.NANO else f"{spec}/", None), spec)
    if not {"vision_cfg", "text_cfg"} <= made.keys():
        raise BadInput(f"{base.label}: expected a whole CLIP as the base, found the config of a tower")
    model = open_clip.CLIP(**made).eval()
    model.visual.image_mean = model.visual.image_std = None  # CLIP's own
    return Network(model.to(device.here()), _tokens(base.label, made["text_cfg"]))


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
    net = network(theta, model)
    weights = state(theta)
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
    text = evaluate.texts(net.model, net.tokens, task.classes, task.templates)
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
