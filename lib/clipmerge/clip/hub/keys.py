"""Two layouts of one model: open_clip's names (OpenAI's too) and Hugging Face's, mapped in both directions.

A tensor of the one is a part of a tensor of the other: the same one, a third of it (q, k, v in `in_proj`), or its
transpose (the projections). Hugging Face has three layouts: a whole `CLIPModel`, a vision tower under `vision_model.`,
and, from transformers 5 on, a vision tower without a prefix.
"""

import re
from collections.abc import Iterable

TOWERS = (  # open_clip's prefix of blocks, Hugging Face's prefix, names outside the blocks
    (
        "visual.transformer.resblocks.",
        "vision_model.",
        {
            "visual.class_embedding": "embeddings.class_embedding",
            "visual.conv1.weight": "embeddings.patch_embedding.weight",
            "visual.positional_embedding": "embeddings.position_embedding.weight",
            "visual.ln_pre.weight": "pre_layrnorm.weight",
            "visual.ln_pre.bias": "pre_layrnorm.bias",
            "visual.ln_post.weight": "post_layernorm.weight",
            "visual.ln_post.bias": "post_layernorm.bias",
        },
    ),
    (
        "transformer.resblocks.",
        "text_model.",
        {
            "token_embedding.weight": "embeddings.token_embedding.weight",
            "positional_embedding": "embeddings.position_embedding.weight",
            "ln_final.weight": "final_layer_norm.weight",
            "ln_final.bias": "final_layer_norm.bias",
        },
    ),
)
OUTSIDE = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
BLOCK = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}  # fmt: skip
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
GROUPS = {  # what a file may lack as a whole, for the base to lend it
    "vision projection": lambda name: name == "visual.proj",
    "vision tower": lambda name: name.startswith("visual.") and name != "visual.proj",
    "text projection": lambda name: name == "text_projection",
    "logit scale": lambda name: name == "logit_scale",
    "text tower": lambda name: not name.startswith("visual.") and name not in ("text_projection", "logit_scale"),
}


def is_clip(names: Iterable[str]) -> bool:
    """Whether these are the names of a CLIP with a vision transformer, in open_clip's layout."""
    return "visual.class_embedding" in names and "token_embedding.weight" in names


def is_huggingface(names: Iterable[str]) -> bool:
    """Whether these are Hugging Face's names of a CLIP, or of one of its towers."""
    return any(re.fullmatch(r"(vision_model\.)?embeddings\.class_embedding|text_model\..*", name) for name in names)


def huggingface(name: str) -> list[tuple[str, int, bool]]:
    """Hugging Face's tensors that an open_clip tensor holds: (name, which third of it or -1 for all, transposed).

    Empty for a name that is not one of CLIP's.
    """
    if name == "logit_scale":
        return [(name, -1, False)]
    if name in OUTSIDE:
        return [(OUTSIDE[name], -1, True)]
    for blocks, prefix, outside in TOWERS:
        if name in outside:
            return [(prefix + outside[name], -1, False)]
        if name.startswith(blocks):
            index, part, kind = re.fullmatch(r"(\d+)\.(.+?)[._](weight|bias)", name.removeprefix(blocks)).groups()
            layer = f"{prefix}encoder.layers.{index}."
            if part == "attn.in_proj":
                return [(f"{layer}{qkv}.{kind}", third, False) for third, qkv in enumerate(QKV)]
            return [(f"{layer}{BLOCK[part]}.{kind}", -1, False)] if part in BLOCK else []
    return []


def prefixed(name: str) -> str | None:
    """A Hugging Face name as a whole `CLIPModel` has it; None for what holds no weights (`position_ids`)."""
    if name.endswith("position_ids"):
        return None
    return f"vision_model.{name}" if re.match(r"embeddings\.|encoder\.|pre_layrnorm\.|post_layernorm\.", name) else name


def open_clip(names: Iterable[str]) -> set[str]:
    """The open_clip tensors that these Hugging Face tensors (of a whole `CLIPModel`'s names) are the parts of."""
    inverse = {theirs: ours for blocks, prefix, outside in TOWERS for ours, theirs in _with(prefix, outside)}
    inverse |= {theirs: ours for ours, theirs in OUTSIDE.items()} | {"logit_scale": "logit_scale"}
    parts = {theirs: ours for ours, theirs in BLOCK.items()} | dict.fromkeys(QKV, "attn.in_proj")
    found = set()
    for name in names:
        match = re.fullmatch(r"(\w+\.)encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if name in inverse:
            found.add(inverse[name])
        elif match and match[3] in parts:
            blocks = next(blocks for blocks, prefix, _ in TOWERS if prefix == match[1])
            joint = "_" if match[3] in QKV else "."
            found.add(f"{blocks}{match[2]}.{parts[match[3]]}{joint}{match[4]}")
        else:
            found.add(name)  # unknown: left for the comparison with the base to name
    return found


def _with(prefix: str, outside: dict[str, str]) -> list[tuple[str, str]]:
    return [(ours, prefix + theirs) for ours, theirs in outside.items()]
