"""The mixtures of MoE-Adapters (Yu et al., arXiv 2403.11549): low-rank experts beside the MLP of every block.

As in the authors' code, router and experts read the block's middle *before* its layer norm; a task's router looks at
the first token of the sequence (the class token of an image; the start token of a text, so there a task has one fixed
pair) and picks two experts, with learned noise while training (Shazeer et al., arXiv 1701.06538). Their outputs,
weighted by a softmax and scaled by 0.1, are added to the MLP's. All experts are computed and two counted, where theirs
dispatches.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clipmerge.clip import training

TOP = 2
SCALE = 0.1  # of what the experts add
DROPOUT = 0.1  # of their hidden units
LEAST = 0.01  # standard deviation of the router's noise: softplus of a learned map, plus this


class Mixture(nn.Module):
    """The experts of one block: ``0.1 Σ_{e ∈ top 2} g_e · (up_e ReLU(down_e x + b_e) + c_e)``, zero at the start."""

    def __init__(self, width: int, experts_: int, rank: int, tasks: int, generator: torch.Generator) -> None:
        super().__init__()
        self.task, self.shape = 0, (experts_, rank)
        down = 2 * torch.rand(experts_ * rank, width, generator=generator) - 1
        self.down = nn.Parameter(down / width**0.5)  # as torch draws a linear layer, and the authors' code
        self.down_bias = nn.Parameter(torch.zeros(experts_ * rank))
        self.up = nn.Parameter(torch.zeros(width, experts_ * rank))
        self.up_bias = nn.Parameter(torch.zeros(experts_, width))
        self.router = nn.Parameter(torch.zeros(tasks, experts_, width))
        self.noise = nn.Parameter(torch.zeros(tasks, experts_, width))
        self.register_buffer("frozen", torch.zeros(experts_, dtype=torch.bool))
        self.register_buffer("used", torch.zeros(experts_, dtype=torch.int64))
        self.down.register_hook(lambda grad: grad * ~self._each(self.frozen)[:, None])
        self.down_bias.register_hook(lambda grad: grad * ~self._each(self.frozen))
        self.up.register_hook(lambda grad: grad * ~self._each(self.frozen))
        self.up_bias.register_hook(lambda grad: grad * ~self.frozen[:, None])

    def _each(self, by_expert: Tensor) -> Tensor:
        return by_expert.repeat_interleave(self.shape[1], -1)

    def gates(self, first: Float[Tensor, "n width"]) -> Float[Tensor, "n experts"]:
        """Weights of the experts for each sequence: two of them above zero, their sum one."""
        logits = first @ self.router[self.task].T
        if self.training:
            spread = F.softplus(first @ self.noise[self.task].T) + LEAST
            logits = logits + spread * torch.randn_like(logits)
        best = logits.topk(min(TOP, self.shape[0]), dim=1)
        return torch.zeros_like(logits).scatter(1, best.indices, best.values.softmax(1))

    def forward(self, x: Float[Tensor, "n tokens width"]) -> Float[Tensor, "n tokens width"]:
        """What the experts add to the output of the block's MLP."""
        gates = self.gates(x[:, 0])
        if self.training:
            self.used += (gates > 0).sum(0)
        hidden = F.dropout(F.relu(x @ self.down.T + self.down_bias), DROPOUT, self.training)
        return SCALE * ((hidden * self._each(gates)[:, None]) @ self.up.T + (gates @ self.up_bias)[:, None])

    def freeze(self) -> None:
        """Freeze the experts this task has used most, and count anew."""
        self.frozen[self.used.topk(min(TOP, self.shape[0])).indices] = True
        self.used.zero_()


def attach(model: nn.Module, count: int, rank: int, tasks: int, seed: int) -> nn.ModuleList:
    """Put a mixture beside the MLP of every block and freeze everything else; returns them (``model.mixtures``)."""
    model.requires_grad_(False)
    blocks = [*model.visual.transformer.resblocks, *model.transformer.resblocks]
    generator, mixtures = training.generator(seed, 0), nn.ModuleList()
    for block in blocks:
        mixture = Mixture(block.mlp.c_fc.in_features, count, rank, tasks, generator)
        _join(block, mixture)
        mixtures.append(mixture)
    model.mixtures = mixtures.to(model.logit_scale.device)
    return mixtures


def _join(block: nn.Module, mixture: Mixture) -> None:
    """Let the mixture read what the block's second layer norm reads, and add to what its MLP says."""
    middle: list[Tensor] = []
    block.ln_2.register_forward_pre_hook(lambda _, args: middle.append(args[0]))
    block.mlp.register_forward_hook(lambda _, args, out: out + mixture(middle.pop()))


def choose(mixtures: nn.ModuleList, task: int) -> None:
    """Let all blocks use the routers of one task."""
    for mixture in mixtures:
        mixture.task = task
