"""What an optimiser step costs and how many steps a budget buys: memory-adjusted FLOPs (arXiv 2408.14471).

MAF = GFLOPs of a step × (its peak memory / that of full fine-tuning). Merging methods cost what full fine-tuning costs.
Nothing is measured with a clock: operations are counted, and memory is what must be there at the end of the forward
pass (weights, gradients, AdamW's moments, tensors saved for the backward pass), so every machine gives the same table.
"""

import logging
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
COLUMNS = {
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
        logging.disable(logging.WARNING)  # open_clip warns that there are no weights, which is the point
        try:
            model = open_clip.create_model(name.partition("/")[0], device="meta").train()
        finally:
            logging.disable(logging.NOTSET)
        size = model.visual.image_size
        images = torch.zeros(batch, 3, *(size if isinstance(size, tuple) else (size, size)))
        text = torch.zeros(batch, model.context_length if tokens is None else tokens.shape[1], dtype=torch.int64)
    if text.shape[1] < model.context_length:
        model.attn_mask = model.attn_mask[: text.shape[1], : text.shape[1]]
        model.positional_embedding = nn.Parameter(model.positional_embedding[: text.shape[1]].detach())
    counted = {scheme: cost(model, images, text, scheme) for scheme in SCHEMES}
    budget, peak = counted["full-ft"][0] * budget_steps, counted["full-ft"][1]
    found = {}
    for scheme, (gflops, mb) in counted.items():
        maf = gflops * mb / peak
        found[scheme] = {"gflops": gflops, "memory factor": mb / peak, "maf": maf, "steps": float(int(budget / maf))}
    return found


def captions(name: str) -> Tensor:
    """Tokens of long but usual captions, cut behind the longest: nano text towers see no more (`encode_text`)."""
    texts = [template.format("washing machine") for template in pool.recipe()["templates"]["icon"]]
    tokens = models.tokenizer(name)(texts)
    return tokens[:, : int(tokens.argmax(1).max()) + 1]


def rows(profile: Profile, names: list[str]) -> pd.DataFrame:
    """Tidy rows of `table` for nano models (`profile`'s batch and budget) and open_clip's (batch 512, 28,400 steps)."""
    frames = []
    for name in names:
        nano = name in models.NANO
        batch, steps = (profile.temporal.recipe.batch, profile.temporal.budget) if nano else (512, 28_400)
        for scheme, values in table(name, batch, steps, captions(name) if nano else None).items():
            for metric, value in values.items():
                fixed = {"method": scheme, "metric": metric, "seed": None, "model": name, "batch": batch}
                frames.append(results.rows({"all": value}, **fixed))
    return pd.concat(frames, ignore_index=True)


def reported() -> pd.DataFrame:
    """The published budget table (ViT-B/16, batch 512) in the same columns."""
    found = results.reported("compute budget ViT-B/16 batch 512")
    found = found[found.metric.isin(COLUMNS)].assign(model="ViT-B-16", batch=512)
    return found.assign(metric=found.metric.map(COLUMNS))[[*results.COLUMNS, "model", "batch"]].reset_index(drop=True)
