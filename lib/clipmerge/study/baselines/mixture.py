"""The mixtures of MoE-Adapters (Yu et al., arXiv 2403.11549): low-rank experts beside the MLP of every block.

A task's router looks at the first token of the sequence (the class token of an image, the start token of a text, so
there a task has one fixed pair) and picks two experts; their outputs, weighted by a softmax, are added to the MLP's.
Simplified: no noise on the router while training, no dispatching (all experts are computed, two are counted).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clipmerge.clip import training

TOP = 2


class Mixture(nn.Module):
    """The experts of one block: ``Σ_{e ∈ top 2} g_e · up_e ReLU(down_e x)``, zero before the first step."""

    def __init__(self, width: int, experts_: int, rank: int, tasks: int, generator: torch.Generator) -> None:
        super().__init__()
        self.task, self.shape = 0, (experts_, rank)
        self.down = nn.Parameter(torch.randn(experts_ * rank, width, generator=generator) / width**0.5)
        self.up = nn.Parameter(torch.zeros(width, experts_ * rank))
        self.router = nn.Parameter(torch.randn(tasks, experts_, width, generator=generator) / width**0.5)
        self.register_buffer("frozen", torch.zeros(experts_, dtype=torch.bool))
        self.register_buffer("used", torch.zeros(experts_, dtype=torch.int64))
        self.down.register_hook(lambda grad: grad * ~self._each(self.frozen)[:, None])
        self.up.register_hook(lambda grad: grad * ~self._each(self.frozen))

    def _each(self, by_expert: Tensor) -> Tensor:
        return by_expert.repeat_interleave(self.shape[1], -1)

    def gates(self, first: Float[Tensor, "n width"]) -> Float[Tensor, "n experts"]:
        """Weights of the experts for each sequence: two of them above zero, their sum one."""
        best = (first @ self.router[self.task].T).topk(min(TOP, self.shape[0]), dim=1)
        return torch.zeros(len(first), self.shape[0], device=first.device).scatter(
            1, best.indices, best.values.softmax(1)
        )

    def forward(self, x: Float[Tensor, "n tokens width"]) -> Float[Tensor, "n tokens width"]:
        """What the experts add to the output of the block's MLP."""
        gates = self.gates(x[:, 0])
        if self.training:
            self.used += (gates > 0).sum(0)
        return (F.relu(x @ self.down.T) * self._each(gates)[:, None]) @ self.up.T

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
        block.mlp.register_forward_hook(lambda _, args, out, beside=mixture: out + beside(args[0]))
        mixtures.append(mixture)
    model.mixtures = mixtures.to(model.logit_scale.device)
    return mixtures


def choose(mixtures: nn.ModuleList, task: int) -> None:
    """Let all blocks use the routers of one task."""
    for mixture in mixtures:
        mixture.task = task
