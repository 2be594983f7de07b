"""What steps will take, estimated before they run: floating-point operations, seconds, bytes, memory.

Operations follow from a step's configuration: images shown, forward only or for training (three times as many), by the
size of the model. Assumed rates are for an A100 and were reckoned, not measured: 14 TFLOP/s in fp32, 110 under bf16
autocast; so is 0.05 TFLOP/s for a processor core. Where the cache holds steps of the same function that ran on such a
device, their recorded seconds take the place of the assumption. Take all of it as good to a half.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import open_clip

from clipmerge.clip import manifests, models, published
from clipmerge.study.cache import placement, store
from clipmerge.study.cache.step import Step

TFLOPS = {"fp32": 14.0, "bf16": 110.0, "cpu": 0.05}
COPY_MB = 1000.0  # moved a second by steps that only merge
TEXT = 20  # tokens of a class's text, as `models.encode_text` cuts it


@dataclass(frozen=True)
class Size:
    """A model: millions of parameters, GFLOPs of showing it an image and a text, activations of an image in MB.

    `rank_one`: millions of parameters of a LoRA of rank 1 on the linears of its MLPs.
    """

    params: float
    rank_one: float
    image: float
    text: float
    activations: float


@cache
def size(spec: str) -> Size:
    """From open_clip's configuration; whatever is no plain vision transformer counts as ViT-B/16."""
    config = open_clip.get_model_config(spec.partition("/")[0]) or {}
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    if not isinstance(vision.get("layers"), int) or "width" not in text:
        return size("ViT-B-16")
    side = vision["image_size"] // vision["patch_size"]
    towers = [(vision["layers"], vision["width"], side**2 + 1, vision.get("mlp_ratio", 4.0))]
    towers.append((text["layers"], text["width"], TEXT, text.get("mlp_ratio", 4.0)))
    weights = [layers * width**2 * (4 + 2 * ratio) for layers, width, _, ratio in towers]
    flops = [2 * w * t + 4 * n * t**2 * d for w, (n, d, t, _) in zip(weights, towers, strict=True)]
    params = sum(weights) + text["vocab_size"] * text["width"] + 3 * vision["patch_size"] ** 2 * vision["width"]
    kept = sum(n * t * d * 34 * 2 for n, d, t, _ in towers[:1])  # tensors kept for the backward pass, fp32
    factors = sum(2 * layers * width * (1 + ratio) for layers, width, _, ratio in towers)
    return Size(params / 1e6, factors / 1e6, flops[0] / 1e9, flops[1] / 1e9, kept / 1e6)


@cache
def images(step: Step) -> tuple[float, float]:
    """Images that a step shows to a model: in training, and only to look."""
    config = step.config
    entries = config.get("tasks") or config.get("sets") or ([config] if "task" in config else [])
    entries = [{**one, **one["data"]} if "data" in one else one for one in entries if isinstance(one, Mapping)]
    recipe = config.get("recipe")
    if recipe:
        several = len(entries) if "tasks" in config and "until" not in config else 1  # chunks of small tasks
        earlier = step.inputs.get("earlier")
        before = earlier.config.get("until", 0) if isinstance(earlier, Step) else 0  # parts of one long training
        steps = config.get("stop") or recipe["steps"]  # a rerun of pretraining ends early
        return float(steps * recipe["batch"] * several * (config.get("until", 1) - before)), 0.0
    if "compute" not in config or any(name.startswith("seen.") for name in step.inputs):
        return 0.0, 0.0
    seen, k = config.get("seen"), config.get("k", 0)
    looked = 0.0
    for number, one in enumerate(entries):
        answers = 1 if seen is None or number < seen else min(k, seen)
        looked += answers * sum(_count(one, part) for part in config.get("parts", ["test"]))
    return 0.0, looked


def _count(entry: Mapping, part: str) -> int:
    about = manifests.load(entry["task"])
    most = entry.get(f"per_class_{part}")
    count = about.counts[part] if most is None else min(about.counts[part], most * len(about.classes))
    return count if entry.get("images") is None else min(count, entry["images"])


@cache
def tflop(step: Step) -> float:
    """Floating-point operations, in units of 10¹²."""
    trained, looked = images(step)
    if not trained + looked:
        return 0.0
    model = size(str(step.config.get("model", "")))
    per_image = model.image + (model.text if "number" in step.config else 0.0)  # TIME: a text an image
    classes = _classes(step) if trained and "number" not in step.config else 0
    texts = step.config.get("recipe", {}).get("steps", 0) * classes * model.text
    return (3 * (trained * per_image + texts) + looked * per_image) / 1e3


def _classes(step: Step) -> int:
    task, most = step.config.get("task"), step.config["recipe"].get("classes")
    known = len(manifests.load(task).classes) if task else 0
    return known if most is None else min(known, most)


def written_mb(step: Step) -> float:
    """What a step leaves: what like steps have left, else weights if it gives any, else next to nothing."""
    name = step.fn.__name__
    params = _params(step)
    if name in ("tune", "train", "merge", "average", "link", "learn", "expand"):
        return 4 * params * max(1, len(step.config.get("tasks", [])) if name == "tune" else 1)
    if name in ("extend", "one_shot"):
        return 4 * params + params / 8 * max(1, len(step.inputs))
    trained, looked = images(step)
    return looked * 4 * 512 / 1e6 if name == "see" else 0.1


def _params(step: Step) -> float:
    """Millions of parameters of the weights at hand: LoRA's factors, unless they were multiplied out on the way."""
    back, model = _back(step), size(_model(step))
    about = back[-1].config
    dense = "lora" not in about or any(one.fn.__name__ == "expand" for one in back)
    return model.params if dense else model.rank_one * about["lora"]["rank"]


def _model(step: Step) -> str:
    """The model of a step that names none: that of whatever goes into it."""
    return str(_back(step)[-1].config.get("model", ""))


def _back(step: Step) -> list[Step]:
    """A step, the first that goes into it, and so on, to the one that names a model."""
    found = [step]
    while "model" not in found[-1].config:
        inner = [value for value in found[-1].inputs.values() if isinstance(value, Step)]
        if not inner:
            break
        found.append(inner[0])
    return found


@dataclass(frozen=True)
class Rates:
    """Seconds of a step on some kind of device; `measured` by function, in seconds a TFLOP."""

    kind: str
    measured: Mapping[str, float]

    def seconds(self, step: Step) -> float:
        """Estimated seconds of one step."""
        work = tflop(step)
        if not work:
            return 4 * size(_model(step)).params * (len(step.inputs) + 1) / COPY_MB
        common = self.measured.get("", 1 / TFLOPS[self.kind])
        return work * self.measured.get(_function(step), common)


def rates(steps: Iterable[Step], kind: str) -> Rates:
    """Rates of a kind (``fp32`` or ``bf16`` on a GPU, ``cpu``): from the records of `steps` that ran so."""
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for step in steps:
        if not store.there(step) or not tflop(step):
            continue
        done = store.record(step)
        narrow = "bf16" if _narrow(step) else "fp32"
        if (done["device"] if done["device"] == "cpu" else narrow) == kind:
            for name in ("", _function(step)):
                spent[name][0] += done["seconds"]
                spent[name][1] += tflop(step)
    return Rates(kind, {name: seconds / work for name, (seconds, work) in spent.items()})


def _function(step: Step) -> str:
    return str(step.parts["function"])


def _narrow(step: Step) -> bool:
    """Whether forward passes run in bf16; a step that says nothing of it has its own way, in fp32."""
    return step.config.get("compute", {}).get("autocast") == "bf16"


def hours(steps: Sequence[Step], rate: Rates) -> tuple[float, float]:
    """Hours of GPU (steps counted with the share they need), and of a processor for steps that need none."""
    gpu = cpu = 0.0
    for step in steps:
        share = placement.need(step).gpu
        if share:
            gpu += share * rate.seconds(step)
        else:
            cpu += rate.seconds(step)
    return gpu / 3600, cpu / 3600


def longest(steps: Sequence[Step], rate: Rates) -> tuple[int, float]:
    """The critical path: steps on it, and hours; `steps` in an order in which each follows what it needs."""
    ends: dict[object, tuple[float, int]] = {}
    for step in steps:
        before = [ends[v.folder] for v in step.inputs.values() if isinstance(v, Step) and v.folder in ends]
        seconds, count = max(before, default=(0.0, 0))
        ends[step.folder] = (seconds + rate.seconds(step), count + 1)
    seconds, count = max(ends.values(), default=(0.0, 0))
    return count, seconds / 3600


def memory_mb(steps: Iterable[Step]) -> tuple[float, float]:
    """The most that one step needs of main memory, and of a GPU's (weights, gradients, two moments, activations)."""
    ram = gpu = 0.0
    for step in steps:
        model = size(_model(step))
        ram = max(ram, 1000 + 4 * model.params * (len(step.inputs) + 2))
        if placement.need(step).gpu:
            batch = step.config.get("recipe", {}).get("batch", 0)
            narrow = 2 if _narrow(step) else 1
            gpu = max(gpu, (16 if batch else 8) * model.params + batch * model.activations / narrow + 600)
    return ram, gpu


def weights_mb(specs: Iterable[str]) -> dict[str, float]:
    """Weights that open_clip still has to fetch, in MB."""
    public = (spec for spec in dict.fromkeys(specs) if spec.partition("/")[0] not in models.NANO)
    return {spec: 4 * size(spec).params for spec in public if not published.lock(spec)}
