"""A model of GPT-2's shape with its usual optimizer: the baseline of ``bench_optimizer``.

Learned positions, LayerNorm, GELU, biases, a tied head; AdamW on everything, with decay of all
matrices. It offers what ``model.network.losses.next_token_loss`` asks of a model, so that both have
one loss. Source: "Language Models are Unsupervised Multitask Learners", 2019, section 2.3; the
optimizer's settings are those of nanoGPT's ``train.py`` (betas 0.9 and 0.95, decay 0.1, clipping at
1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.losses import score_logits

INITIAL_STD = 0.02  # GPT-2's initializer_range


@dataclass(frozen=True)
class GPT2Shape:
    """What fixes the network."""

    vocab_size: int
    context_tokens: int
    width: int = 160  # with it, as many parameters as our 1m size
    num_layers: int = 4
    num_heads: int = 5


class GPT2Block(nn.Module):
    """Attention, then MLP, each added to the stream it read through a LayerNorm."""

    def __init__(self, shape: GPT2Shape) -> None:
        super().__init__()
        width = shape.width
        self.num_heads = shape.num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream after this block."""
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        gathered = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(gathered.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT2(nn.Module):
    """The language model, with the weights it begins with."""

    def __init__(self, shape: GPT2Shape, *, seed: int) -> None:
        super().__init__()
        self.table = nn.Embedding(shape.vocab_size, shape.width)
        self.positions = nn.Embedding(shape.context_tokens, shape.width)
        self.blocks = nn.ModuleList(GPT2Block(shape) for _ in range(shape.num_layers))
        self.norm = nn.LayerNorm(shape.width)
        self.score_chunk = score_logits
        self._begin(shape.num_layers, seed)

    @torch.no_grad()
    def _begin(self, num_layers: int, seed: int) -> None:
        """Draw all matrices; those that write to the stream are smaller, by its 2 L additions."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim > 1:
                writes = name.endswith(("out.weight", "down.weight"))
                std = INITIAL_STD * ((2 * num_layers) ** -0.5 if writes else 1.0)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    @property
    def head_weight(self) -> Tensor:
        """The matrix that turns hidden states into logits."""
        return self.table.weight

    def hidden(self, ids: Tensor, documents: Tensor | None = None) -> Tensor:
        """Return the normed hidden state of each position."""
        assert documents is None, "a token sees its whole row"
        x = self.table(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def gpt2_optimizer(model: GPT2, *, learning_rate: float) -> torch.optim.Optimizer:
    """Return torch's AdamW with the settings this shape is usually trained with."""
    matrices = [item for item in model.parameters() if item.ndim > 1]
    others = [item for item in model.parameters() if item.ndim == 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": 0.1},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
