"""The vision-language model: open_clip's own CLIP, from a name to a model, a tokenizer and normalised inputs.

The nano family is data, not code: a JSON configuration per width, the CLIP byte-pair tokenizer cut to its first 3,584
merges, and committed safetensors weights. Any open_clip model works in its place.
"""

import functools
import gzip
import logging
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from torch import Tensor, nn

from clipmerge import files, paths
from clipmerge.clip import device, towers
from clipmerge.clip.data.unread import Unread
from clipmerge.errors import BadInput

CONFIGS = Path(__file__).parent / "model_configs"
NANO = tuple(sorted(path.stem for path in CONFIGS.glob("nano-*.json")))
TEXTS = 48  # class names worth encoding together (`encode_text`); smaller groups gain nothing more
MERGES = 3584  # 2 × 256 bytes + 3,584 merges + start and end = 4,098 tokens

open_clip.add_model_config(CONFIGS)


def create(spec: str, pretrained: str | Path | None = "default", seed: int = 0) -> nn.Module:
    """A CLIP model in evaluation mode, where `device.here` says.

    `spec` is a nano model (``nano-s``, or ``nano-s/narrow`` for other weights of it) or an open_clip architecture and
    weights tag (``ViT-B-16-quickgelu/openai``). `pretrained` is "default" for the weights that belong to it, the path
    of a safetensors state dict, or None for random weights drawn from `seed`.
    """
    name, _, tag = spec.partition("/")
    if name not in NANO and name not in open_clip.list_models():
        raise BadInput(f"model {spec!r}: expected one of {', '.join(NANO)} or a name of open_clip.list_models()")
    if name not in NANO and not tag and pretrained == "default":
        raise BadInput(f"model {spec!r}: expected architecture/weights, as in 'ViT-B-16-quickgelu/openai'")
    if tag == "openai" and "quickgelu" not in name:
        # OpenAI's weights were trained with QuickGELU; under GELU they load without a word and score lower
        raise BadInput(f"model {spec!r}: OpenAI weights expect QuickGELU, that is '{name}-quickgelu/openai'")
    place = device.here()
    theirs = pretrained == "default" and name not in NANO  # weights that open_clip fetches
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        logging.disable(logging.WARNING)  # open_clip warns that weights are random before ours are loaded
        try:
            model = open_clip.create_model(name, pretrained=tag if theirs else None)
            if name in NANO:
                towers.lean(model.visual.transformer)
                towers.lean(model.transformer)
        finally:
            logging.disable(logging.NOTSET)
    if pretrained is not None and not theirs:
        path = weights(spec) if pretrained == "default" else Path(pretrained)
        load(model, files.load_tensors(path), source=str(path))
    return model.eval().to(place)


def stem(spec: str) -> str:
    """File name of a nano model's weights, without suffix: ``nano-s``, or ``nano-s-narrow`` for ``nano-s/narrow``."""
    return spec.strip("/").replace("/", "-")


def weights(spec: str) -> Path:
    """The committed weights of a nano model, checked against the sha256 of their manifest."""
    folder = paths.manifests() / "weights"
    manifest = folder / f"{stem(spec)}.json"
    if not manifest.exists():
        raise BadInput(f"{manifest}: expected a weights manifest (made by `make pretrain`), found none")
    expected = files.read_json(manifest)["sha256"]
    path = folder / f"{stem(spec)}.safetensors"
    found = _sha256(path, path.stat().st_mtime_ns) if path.exists() else "no file"
    if found != expected:
        raise BadInput(f"{path}: expected sha256 {expected}, found {found}")
    return path


@functools.cache
def _sha256(path: Path, mtime_ns: int) -> str:
    return files.sha256(path)


def load(model: nn.Module, state: dict[str, Tensor], source: str = "state dict") -> nn.Module:
    """Load a whole state dict into `model`; a missing, unexpected or misshapen key is named."""
    own = model.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    for what, keys in (("missing", missing), ("unexpected", extra), ("wrongly shaped", sorted(wrong))):
        if keys:
            raise BadInput(f"{source}: {len(keys)} {what} keys for this model, among them {', '.join(keys[:10])}")
    model.load_state_dict(state)
    return model


def state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's weights on the CPU, which stays what it is when the model changes."""
    return {key: value.cpu().clone() for key, value in model.state_dict().items()}


@functools.cache
def tokenizer(spec: str):
    """The tokenizer of a model: a function of a list of texts that gives int64 [n, context]."""
    name = spec.partition("/")[0]
    if name not in NANO:
        return open_clip.get_tokenizer(name)
    path = paths.cache("tokenizer", f"clip-bpe-{MERGES}.txt.gz")
    if not path.exists():
        lines = gzip.decompress(Path(default_bpe()).read_bytes()).decode("utf8").split("\n")[: MERGES + 1]
        with files.atomic(path) as partial:
            partial.write_bytes(gzip.compress("\n".join(lines).encode("utf8"), mtime=0))
    context = files.read_json(CONFIGS / f"{name}.json")["text_cfg"]["context_length"]
    found = SimpleTokenizer(bpe_path=str(path), context_length=context)
    found.encode = functools.lru_cache(1 << 16)(found.encode)  # the same class names, over and over
    return found


def image_size(model: nn.Module) -> int:
    """Side of the square images that a model takes, in pixels."""
    size = model.visual.image_size
    return size[0] if isinstance(size, tuple) else size


def pixels(images: UInt8[Tensor, "n *hwc"] | Unread, model: nn.Module) -> Float[Tensor, "n 3 size size"]:
    """uint8 images (channels last or first) as the normalised float input of `model`, resized where it needs more."""
    if isinstance(images, Unread):
        images = images.middle(image_size(model))
    first = images.shape[1] == 3
    x = (images if first else images.permute(0, 3, 1, 2)).to(_device(model)).float() / 255
    size = image_size(model)
    if tuple(x.shape[-2:]) != (size, size):
        x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    mean = x.new_tensor(model.visual.image_mean or open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    std = x.new_tensor(model.visual.image_std or open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    return (x - mean) / std


def encode_image(model: nn.Module, images: UInt8[Tensor, "n *hwc"] | Unread) -> Float[Tensor, "n dim"]:
    """Unit-length image features."""
    with device.autocast():
        return _unit(towers.image(model, pixels(images, model)))


def encode_text(model: nn.Module, tokens: Int64[Tensor, "n context"], pieces: int = 1) -> Float[Tensor, "n dim"]:
    """Unit-length text features.

    Text attention is causal and features are read at the end token, so what stands behind the longest text of a batch
    cannot matter: it is cut off, which halves the cost of short captions. With `pieces` the texts are sorted by length
    and encoded in that many groups, which saves as much again where one long name would set the pace for many short.
    For the same reason texts made from one template share what stands before the class name: it is encoded once.
    """
    tokens = tokens.to(_device(model))
    if not isinstance(model, open_clip.CLIP) or model.text_pool_type != "argmax":
        with device.autocast():
            return _unit(model.encode_text(tokens))
    end = tokens.argmax(-1)
    order = end.argsort(stable=True)
    groups = [rows for rows in order.tensor_split(pieces) if len(rows)]
    with device.autocast():
        features = [towers.text(model, tokens[rows, : end[rows[-1]] + 1], end[rows]) for rows in groups]
    return _unit(torch.cat(features)[order.argsort()])


def _unit(features: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """Unit length, in fp32 again where the profile made a forward pass narrower."""
    return F.normalize(features.float() if device.narrow() else features, dim=-1)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
