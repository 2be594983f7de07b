"""What an optimiser step costs and how many steps a budget buys: memory-adjusted FLOPs (arXiv 2408.14471).

MAF = GFLOPs of a step × (its peak memory / that of full fine-tuning). Merging methods cost what full fine-tuning costs.
Nothing is measured with a clock: operations are counted, and memory is what must be there at the end of the forward
pass (weights, gradients, AdamW's moments, tensors saved for the backward pass), so every machine gives the same table.
"""

from collections.abc import Callable

import open_clip
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from clipmerge.clip import models, pool
from clipmerge.errors import BadInput
from clipmerge.study import results
from clipmerge.study.profiles import Profile

SCHEMES: dict[str, Callable[[str], bool]] = {
    "full-ft": lambda name: True,
    "locked-text": lambda name: name.startswith("visual."),
    "locked-image": lambda name: not name.startswith("visual."),
    "LNFit": lambda name: ".ln_" in name or name.startswith("ln_"),
    "BitFit": lambda name: name.endswith("bias"),
}  # which parameters train
PUBLISHED = {
    "per-task GFlops": "gflops",
    "memory multiplier": "memory factor",
    "per-task MAFs": "maf",
    "total steps": "steps",
}  # published name (really per optimiser step) → metric


def cost(model: nn.Module, images: Tensor, tokens: Tensor, scheme: str) -> tuple[float, float]:
    """(GFLOPs, MB) of one contrastive step with `scheme`'s parameters trained. Works on the meta device."""
    if scheme not in SCHEMES:
        raise BadInput(f"scheme: expected one of {', '.join(SCHEMES)}, found {scheme!r}")
    trained = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(SCHEMES[scheme](name))
        trained += parameter.nbytes * parameter.requires_grad
    weights = {p.untyped_storage()._cdata: p.nbytes for p in model.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            scores = model.encode_image(images, normalize=True) @ model.encode_text(tokens, normalize=True).T
            loss = scores.logsumexp(0).sum() + scores.logsumexp(1).sum()
        loss.backward()
    model.zero_grad(set_to_none=True)
    activations = sum(size for key, size in saved.items() if key not in weights)
    return counter.get_total_flops() / 1e9, (sum(weights.values()) + 3 * trained + activations) / 1e6


def table(name: str, batch: int, budget_steps: int, tokens: Tensor | None = None) -> dict[str, dict[str, float]]:
    """By scheme: GFLOPs of a step, memory factor, MAF, and the steps that the cost of `budget_steps` full ones buys.

    `name` is an architecture of open_clip; `tokens` [n, length] says how long texts are (default: the whole context).
    """
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config(name.partition("/")[0]))
        images = torch.zeros(batch, 3, *model.visual.image_size)
        length = model.context_length if tokens is None else tokens.shape[1]
        texts = torch.zeros(batch, length, dtype=torch.int64)
    model.attn_mask = model.attn_mask[:length, :length]
    model.positional_embedding = nn.Parameter(model.positional_embedding[:length].detach())
    counted = {scheme: cost(model, images, texts, scheme) for scheme in SCHEMES}
    whole, peak = counted["full-ft"]
    rows = {}
    for scheme, (gflops, memory) in counted.items():
        maf = gflops * memory / peak
        steps = float(int(whole * budget_steps / maf))
        rows[scheme] = {"gflops": gflops, "memory factor": memory / peak, "maf": maf, "steps": steps}
    return rows


def captions(name: str) -> Tensor:
    """Tokens of long but usual captions, cut behind the longest: nano text towers see no more (`encode_text`)."""
    texts = [template.format("washing machine") for template in pool.recipe()["templates"]["icon"]]
    tokens = models.tokenizer(name)(texts)
    return tokens[:, : int(tokens.argmax(1).max()) + 1]


def rows(profile: Profile, names: list[str]) -> pd.DataFrame:
    """Tidy rows of `table` for nano models (`profile`'s batch and budget) and open_clip's (batch 512, 28,400 steps)."""
    frames = []
    for name in names:
        batch, steps, tokens = 512, 28_400, None
        if name in models.NANO:
            batch, steps, tokens = profile.temporal.recipe.batch, profile.temporal.budget, captions(name)
        for scheme, values in table(name, batch, steps, tokens).items():
            columns = {"method": scheme, "task": "all", "seed": None, "n": None, "source": "ours"}
            records = [columns | {"metric": metric, "value": value} for metric, value in values.items()]
            frames.append(pd.DataFrame(records).assign(model=name, batch=batch))
    return results.tidy(pd.concat(frames, ignore_index=True))


def reported() -> pd.DataFrame:
    """The published budget table (ViT-B/16, batch 512) in the same columns."""
    printed = results.reported("compute budget ViT-B/16 batch 512")
    table = printed[printed.metric.isin(PUBLISHED)].assign(model="ViT-B-16", batch=512)
    return table.assign(metric=table.metric.map(PUBLISHED))[[*results.COLUMNS, "model", "batch"]].reset_index(drop=True)
