"""What of CLIP's towers must be computed, for one token of each sequence is read and no other.

The last block is computed for that token alone, which looks at all the others; texts made from one template have their
common beginning computed once. Features and gradients are those of open_clip's own towers, to rounding: a fifth of the
work of a small model is spared. What is not known to be plain goes through open_clip's own code.
"""

import torch
from jaxtyping import Float, Int64
from open_clip import CLIP
from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

SHARED = 3  # tokens that texts must have in common at their beginning for it to be worth encoding apart
ATTENTION = {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}


def lean(transformer: nn.Module) -> None:
    """Put the same weights into open_clip's other kind of block, whose attention copies less: small models feel that.

    To be done after the weights are drawn, because the two kinds draw them differently.
    """
    for index, block in enumerate(transformer.resblocks):
        twin = CustomResidualAttentionBlock(block.attn.embed_dim, block.attn.num_heads)
        twin.load_state_dict(block.state_dict())
        transformer.resblocks[index] = twin


def image(model: nn.Module, pixels: Float[Tensor, "n 3 size size"]) -> Float[Tensor, "n dim"]:
    """Image features, as ``model.encode_image`` gives them."""
    visual = model.visual
    if not isinstance(model, CLIP) or not _reads_class_token(visual):
        return model.encode_image(pixels)
    x = visual.conv1(pixels).flatten(2).transpose(1, 2)
    first = visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)
    x = visual.ln_pre(torch.cat([first, x], 1) + visual.positional_embedding.to(x.dtype))
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = block(x)
    return visual.ln_post(_read(last, x, x[:, :1])) @ visual.proj


def text(model: nn.Module, tokens: Int64[Tensor, "n length"], end: Int64[Tensor, " n"]) -> Float[Tensor, "n dim"]:
    """Text features, read at token `end` of each text, as ``encode_text`` of an open_clip ``CLIP`` gives them."""
    length, rows = tokens.shape[1], torch.arange(len(tokens), device=tokens.device)
    x, mask = model.token_embedding(tokens) + model.positional_embedding[:length], model.attn_mask[:length, :length]
    if not _plain(model.transformer):
        read = model.transformer(x, attn_mask=mask)[rows, end]
    else:
        *blocks, last = model.transformer.resblocks
        shared = _shared(tokens)
        prefix, x = x[:1, :shared], x[:, shared:]
        for block in blocks:
            prefix, x = _after(block, prefix, x, mask) if shared else (prefix, block(x, attn_mask=mask))
        read = _read(last, x, x[rows, end - shared][:, None], prefix, mask[end][:, None, None])
    return model.ln_final(read) @ model.text_projection


def _reads_class_token(visual: nn.Module) -> bool:
    """Whether this is the vision transformer of CLIP's paper: its class token, normalised and projected."""
    return (
        isinstance(visual, VisionTransformer)
        and (visual.pool_type, visual.attn_pool, visual.output_tokens) == ("tok", None, False)
        and isinstance(visual.patch_dropout, nn.Identity)
        and visual.proj is not None
        and _plain(visual.transformer)
    )


def _plain(transformer: nn.Module) -> bool:
    """Whether its blocks hold nothing that is not known here, and nothing listens in to them."""
    blocks = all(
        type(block) in (ResidualAttentionBlock, CustomResidualAttentionBlock)
        and {name for name, _ in block.attn.named_parameters()} == ATTENTION
        and isinstance(getattr(block, "ln_attn", nn.Identity()), nn.Identity)
        and not any(part._forward_hooks or part._forward_pre_hooks for part in block.modules())
        for block in transformer.resblocks
    )
    return blocks and transformer.batch_first and not transformer.grad_checkpointing


def _shared(tokens: Int64[Tensor, "n length"]) -> int:
    """How many tokens all texts begin with; 0 where that is not worth it. The last one is never shared."""
    if len(tokens) < 2:
        return 0
    same = int((tokens == tokens[0]).all(0).cumprod(0).sum())
    return min(same, tokens.shape[1] - 1) if same >= SHARED else 0


def _after(
    block: nn.Module,
    prefix: Float[Tensor, "1 shared width"],
    x: Float[Tensor, "n rest width"],
    mask: Float[Tensor, "length length"],
) -> tuple[Float[Tensor, "1 shared width"], Float[Tensor, "n rest width"]]:
    """A causal block for texts that begin alike: the common beginning, and what follows it in each text."""
    shared = prefix.shape[1]
    first, own = _heads(block.attn, block.ln_1(prefix)), _heads(block.attn, block.ln_1(x))
    before = _through(block, prefix, *first, mask[:shared, :shared])
    return before, _through(block, x, own[0], *_joined(first[1:], own[1:]), mask[shared:])


def _read(
    block: nn.Module,
    x: Float[Tensor, "n rest width"],
    one: Float[Tensor, "n 1 width"],
    prefix: Float[Tensor, "1 shared width"] | None = None,
    mask: Float[Tensor, "n 1 1 length"] | None = None,
) -> Float[Tensor, "n width"]:
    """The last block for the `one` token of each sequence that is read; the others are only looked at."""
    looked_at = _heads(block.attn, block.ln_1(x), first=1)
    if prefix is not None and prefix.shape[1]:
        looked_at = _joined(_heads(block.attn, block.ln_1(prefix), first=1), looked_at)
    return _through(block, one, *_heads(block.attn, block.ln_1(one), last=1), *looked_at, mask)[:, 0]


def _heads(
    attn: nn.Module, x: Float[Tensor, "n length width"], first: int = 0, last: int = 3
) -> Float[Tensor, "parts n heads length size"]:
    """Of queries, keys and values (0, 1, 2) of every head those from `first` up to `last`."""
    rows, width = slice(first * x.shape[-1], last * x.shape[-1]), (last - first, attn.num_heads, -1)
    return F.linear(x, attn.in_proj_weight[rows], attn.in_proj_bias[rows]).unflatten(-1, width).permute(2, 0, 3, 1, 4)


def _joined(
    prefix: Float[Tensor, "2 1 heads shared size"], own: Float[Tensor, "2 n heads rest size"]
) -> list[Float[Tensor, "n heads length size"]]:
    """Keys and values of whole texts, from those of the common beginning and of the rest."""
    return [torch.cat([a.expand(len(b), -1, -1, -1), b], 2) for a, b in zip(prefix, own, strict=True)]


def _through(
    block: nn.Module,
    x: Float[Tensor, "n rest width"],
    q: Float[Tensor, "n heads rest size"],
    k: Float[Tensor, "n heads length size"],
    v: Float[Tensor, "n heads length size"],
    mask: Float[Tensor, "*n rest length"] | None,
) -> Float[Tensor, "n rest width"]:
    """What a block makes of `x`, given its queries and all that they may look at: attention, then the MLP."""
    seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    x = x + block.ls_1(block.attn.out_proj(seen.transpose(1, 2).flatten(2)))
    return x + block.ls_2(block.mlp(block.ln_2(x)))
