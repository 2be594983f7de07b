"""What a checkpoint's config says that its weights do not: activation, heads, image size. As open_clip writes it."""

from collections.abc import Mapping

from clipmerge.errors import BadInput

ACTIVATIONS = {"quick_gelu": True, "gelu": False}


def of(config: Mapping[str, object], label: str) -> dict[str, object]:
    """open_clip's architecture from either kind of config; {} if it says nothing of CLIP.

    A vision tower's config gives `quick_gelu`, `embed_dim` and `vision_cfg` only. Raises BadInput for an activation
    that open_clip has no name for: under another one weights load without a word and score lower.
    """
    if "model_cfg" in config:  # open_clip_config.json
        cfg = dict(config["model_cfg"])
        return cfg | {"quick_gelu": bool(cfg.get("quick_gelu", False))}
    kind = config.get("model_type")
    if kind == "clip":
        towers = {"vision_cfg": config.get("vision_config", {}), "text_cfg": config.get("text_config", {})}
    elif kind == "clip_vision_model":
        towers = {"vision_cfg": config}
    else:
        return {}
    found = {ACTIVATIONS.get(act, act) for act in (tower.get("hidden_act", "quick_gelu") for tower in towers.values())}
    if len(found) > 1 or not found <= {True, False}:
        raise BadInput(f"{label}: expected hidden_act to be quick_gelu or gelu in both towers, found another in config")
    made = {"embed_dim": config.get("projection_dim", 512), "quick_gelu": found.pop()}
    return made | {name: _vision(tower) if name == "vision_cfg" else _text(tower) for name, tower in towers.items()}


def huggingface(architecture: Mapping[str, object]) -> dict[str, object]:
    """The config.json of a `CLIPModel` of this architecture."""
    vision, text, dim = architecture["vision_cfg"], architecture["text_cfg"], architecture["embed_dim"]
    act = "quick_gelu" if architecture.get("quick_gelu") else "gelu"
    towers = {
        "vision_config": {
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            **_sizes(vision, vision["width"] // vision.get("head_width", 64)),
        },
        "text_config": {
            "max_position_embeddings": text["context_length"],
            "vocab_size": text["vocab_size"],
            "bos_token_id": text["vocab_size"] - 2,
            "eos_token_id": text["vocab_size"] - 1,
            **_sizes(text, text["heads"]),
        },
    }
    towers = {name: tower | {"hidden_act": act, "projection_dim": dim} for name, tower in towers.items()}
    return {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": dim} | towers


def _sizes(tower: Mapping, heads: int) -> dict[str, int]:
    width = tower["width"]
    mlp = int(width * tower.get("mlp_ratio", 4.0))
    sizes = {"hidden_size": width, "num_hidden_layers": tower["layers"], "num_attention_heads": heads}
    return sizes | {"intermediate_size": mlp}


def _vision(config: Mapping) -> dict[str, object]:
    width, heads = config.get("hidden_size", 768), config.get("num_attention_heads", 12)
    return {
        "image_size": config.get("image_size", 224),
        "layers": config.get("num_hidden_layers", 12),
        "width": width,
        "head_width": width // heads,
        "patch_size": config.get("patch_size", 32),
        "mlp_ratio": config.get("intermediate_size", 3072) / width,
    }


def _text(config: Mapping) -> dict[str, object]:
    width = config.get("hidden_size", 512)
    return {
        "context_length": config.get("max_position_embeddings", 77),
        "vocab_size": config.get("vocab_size", 49408),
        "width": width,
        "heads": config.get("num_attention_heads", 8),
        "layers": config.get("num_hidden_layers", 12),
        "mlp_ratio": config.get("intermediate_size", 2048) / width,
    }
