"""The network: a decoder-only transformer of Qwen3's shape.

* pre-norm blocks, RMSNorm with a weight
* multi-head attention, causal, with rotary positions and per-head RMSNorm of queries and keys
* SwiGLU feed-forward
* no biases, no dropout; the head is tied to the embedding or has its own weights

Parameters carry the names Hugging Face gives them, so that a finished model loads in stock
runtimes with equal logits. See ``model.network.losses`` for the loss, ``model.optim.optimizer``,
``model.inference.generate`` for sampling and ``model.network.weights`` for files.

Dimensions in shapes: B batch, T time, C width, H heads, D head width, V vocabulary, N = B * T.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from model.config.network import Architecture
from model.core.errors import ConfigError
from model.network.attention import Scope, attend, scope_of

TIED_EMBEDDING_STD = 0.02  # Qwen3's initializer_range (its public config.json); also GPT-2's
EMBEDDING_STD = 1.0  # that of block outputs: docs/decisions/011-small-sizes-untied.md

RunBlock = Callable[..., Tensor]
ScoreChunk = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def rotary_table(
    *, num_positions: int, head_dim: int, theta: float
) -> tuple[Float[Tensor, "T D"], Float[Tensor, "T D"]]:
    """Return cosine and sine of every position's angles.

    Dimension i turns together with dimension i + D / 2, by position * theta^(-2i / D).
    Source: RoFormer, arXiv 2104.09864, section 3.4, paired by halves as Hugging Face does.
    """
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(
    x: Float[Tensor, "B H T D"], cosine: Float[Tensor, "T D"], sine: Float[Tensor, "T D"]
) -> Float[Tensor, "B H T D"]:
    """Turn queries or keys by their positions' angles; the type of ``x`` is kept."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x * cosine + turned * sine).to(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a weight per dimension."""

    def __init__(self, width: int, *, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
        """Return ``x`` at a root mean square of one, times the weight, in its own type."""
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.epsilon)


class Attention(nn.Module):
    """Causal self-attention; queries and keys are normed per head, then rotated."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, inner = architecture.width, architecture.num_heads * architecture.head_dim
        self.head_dim = architecture.head_dim
        self.q_proj = nn.Linear(width, inner, bias=False)
        self.k_proj = nn.Linear(width, inner, bias=False)
        self.v_proj = nn.Linear(width, inner, bias=False)
        self.o_proj = nn.Linear(inner, width, bias=False)
        self.q_norm = RMSNorm(self.head_dim, epsilon=architecture.norm_epsilon)
        self.k_norm = RMSNorm(self.head_dim, epsilon=architecture.norm_epsilon)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        cosine: Float[Tensor, "T D"],
        sine: Float[Tensor, "T D"],
        scope: Scope = None,
    ) -> Float[Tensor, "B T C"]:
        """Return the attention output of each position."""
        q = rotate(self.q_norm(self._heads(self.q_proj(x))), cosine, sine)
        k = rotate(self.k_norm(self._heads(self.k_proj(x))), cosine, sine)
        v = self._heads(self.v_proj(x))
        return self.o_proj(attend(q, k, v, scope).transpose(1, 2).flatten(2))

    def _heads(self, x: Float[Tensor, "B T HD"]) -> Float[Tensor, "B H T D"]:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class MLP(nn.Module):
    """SwiGLU feed-forward. Source: arXiv 2002.05202, equation 6."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, inner = architecture.width, architecture.mlp_width
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Return the output of each position."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention, then MLP, each pre-normed and added to the residual stream."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, epsilon = architecture.width, architecture.norm_epsilon
        self.input_layernorm = RMSNorm(width, epsilon=epsilon)
        self.self_attn = Attention(architecture)
        self.post_attention_layernorm = RMSNorm(width, epsilon=epsilon)
        self.mlp = MLP(architecture)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        cosine: Float[Tensor, "T D"],
        sine: Float[Tensor, "T D"],
        scope: Scope = None,
    ) -> Float[Tensor, "B T C"]:
        """Return the residual stream after this block; ``scope`` as in ``attention.attend``."""
        x = x + self.self_attn(self.input_layernorm(x), cosine, sine, scope)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    """Embedding, blocks and final norm: everything but the head."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(architecture.vocab_size, architecture.width)
        self.layers = nn.ModuleList(Block(architecture) for _ in range(architecture.num_layers))
        self.norm = RMSNorm(architecture.width, epsilon=architecture.norm_epsilon)
        cosine, sine = rotary_table(
            num_positions=architecture.context_tokens,
            head_dim=architecture.head_dim,
            theta=architecture.rope_theta,
        )
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        self.training_block: RunBlock | None = None  # set by model.network.compiling

    def forward(
        self, ids: Int[Tensor, "B T"], documents: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T C"]:
        """Return the normed residual stream of each position."""
        num_positions = ids.shape[1]
        if num_positions > self.cosine.shape[0]:
            raise ConfigError(
                "a sequence is longer than the model's context",
                expected=f"at most {self.cosine.shape[0]} tokens",
                found=f"{num_positions} tokens",
                fix="cut the sequence, or train with a larger model.context_tokens",
            )
        x = self.embed_tokens(ids)
        cosine, sine = self.cosine[:num_positions], self.sine[:num_positions]
        run = self.training_block if torch.is_grad_enabled() else None
        scope = scope_of(documents, is_compiled=run is not None)
        for block in self.layers:
            x = run(block, x, cosine, sine, scope) if run else block(x, cosine, sine, scope)
        return self.norm(x)


class GPT(nn.Module):
    """The language model. Call ``init_weights`` before training, or load weights.

    Example:
        ``GPT(ModelConfig(size="1m").architecture(vocab_size=4096))`` has 1.9 million parameters.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.model = Backbone(architecture)
        self.lm_head = (
            None
            if architecture.tied
            else nn.Linear(architecture.width, architecture.vocab_size, bias=False)
        )
        self.score_chunk: ScoreChunk | None = None  # set by model.network.compiling

    @property
    def head_weight(self) -> Float[Tensor, "V C"]:
        """The matrix that maps hidden states to logits: the embedding when tied."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def hidden(
        self, ids: Int[Tensor, "B T"], documents: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T C"]:
        """Return the normed hidden state of each position, before the head.

        Args:
            documents: for each token the index of its document in the row; where given, attention
                stays within documents.
        """
        return self.model(ids, documents)

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return each position's logits for the token after it.

        Raises:
            ConfigError: the sequences are longer than the context.
        """
        return F.linear(self.hidden(ids), self.head_weight)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Set every parameter from ``seed`` alone, the same on every machine.

        Input projections of the residual stream are normal with standard deviation width^-0.5, so
        that their outputs start at unit scale; output projections are zero, so that every block
        starts as the identity. An untied head starts at zero: the first loss is exactly
        ln(vocabulary); only a tied embedding has to be small.
        Source: nanochat ``gpt.py`` (zero output projections); modded-nanogpt record 5 (zero head).
        """
        generator = torch.Generator().manual_seed(seed)
        embedding_std = TIED_EMBEDDING_STD if self.architecture.tied else EMBEDDING_STD
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                value = torch.ones(parameter.shape)
            elif name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                value = torch.zeros(parameter.shape)
            else:
                is_embedding = name.endswith("embed_tokens.weight")
                std = embedding_std if is_embedding else self.architecture.width**-0.5
                value = torch.randn(parameter.shape, generator=generator) * std
            parameter.copy_(value)

    def num_params(self) -> int:
        """Count all parameters; a tied embedding counts once."""
        return sum(parameter.numel() for parameter in self.parameters())
