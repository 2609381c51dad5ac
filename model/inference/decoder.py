"""Incremental decoding with a key-value cache: one token per row and step.

``Decoder`` reads the weights of a ``GPT`` once, and computes what ``GPT.forward`` computes for the
last position of every row, without computing the earlier ones again. Rows are independent sequences
of different lengths that share each step; they may be prefilled and evicted between any two steps.
No sampling and no text here: see ``model.inference.sampling`` and ``model.inference.batching``.

On a CPU, matrices with the same input are concatenated and packed in oneDNN's layout for few rows
(docs/decisions/018-generation-and-serving.md); elsewhere the weights are used in place.

Dimensions in shapes: B rows, T time, C width, H heads, D head width, V vocabulary, N = B * T.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from model.config.network import Architecture
from model.core.errors import ConfigError
from model.network.gpt import GPT, Block

PACKED_FOR_ROWS = 16  # a hint of oneDNN's packing; 8 and 64 were as fast for 1 to 16 rows
FIRST_CAPACITY_TOKENS = 128  # first length of the cache, doubled when a row outgrows it

Attend = Callable[[int, Tensor], Tensor]  # layer index, queries keys values -> mixed values


class Decoder:
    """A model with a key-value cache; later changes to its weights have no effect."""

    @torch.inference_mode()
    def __init__(self, model: GPT) -> None:
        a = self.architecture = model.architecture
        self.device = model.head_weight.device
        self.lengths: list[int] = []
        self._embedding = model.model.embed_tokens.weight.detach()
        self._layers = [_Layer.of(block, a) for block in model.model.layers]  # pyright: ignore[reportArgumentType]
        self._norm = _Norm(model.model.norm.weight, epsilon=a.norm_epsilon)
        self._head = Projection([model.head_weight.detach()])
        self._rotary = _RotaryEmbedding(model.model.cosine, model.model.sine)
        self._cache = _Cache(model)

    @property
    def num_rows(self) -> int:
        """Return how many rows there are now."""
        return len(self.lengths)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "B V"]:
        """Append a row for each prompt and return their next logits.

        Prompts are padded at their ends, where causal attention masks the padding.
        """
        lengths = [len(prompt) for prompt in prompts]
        _require_fitting(lengths, context_tokens=self.architecture.context_tokens)
        num_positions, first = max(lengths), self.num_rows
        padded = [[*prompt, *[0] * (num_positions - len(prompt))] for prompt in prompts]
        self._cache.reserve(first + len(prompts), num_positions)
        rows = slice(first, first + len(prompts))
        num_heads = self.architecture.num_heads

        def attend(index: int, qkv: Tensor) -> Tensor:
            by_row = qkv.unflatten(0, (len(prompts), num_positions)).transpose(1, 2)
            self._cache.layers[index][rows, :, :num_positions] = by_row[:, num_heads:]
            q, k, v = by_row.split(num_heads, dim=1)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return mixed.transpose(1, 2).flatten(2).flatten(0, 1)

        positions = torch.arange(num_positions, device=self.device).repeat(len(prompts))
        ids = torch.tensor(padded, device=self.device).flatten()
        hidden = self._hidden(ids, self._rotary.at(positions), attend)
        self.lengths += lengths
        last = torch.tensor(lengths, device=self.device) - 1
        starts = torch.arange(len(prompts), device=self.device) * num_positions
        return self._logits(hidden[starts + last])

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Float[Tensor, "B V"]:
        """Add one token to each row and return the logits of the tokens after them."""
        if len(tokens) != self.num_rows:
            raise ConfigError(
                "a step takes one token for each row", expected=self.num_rows, found=len(tokens)
            )
        lengths = [length + 1 for length in self.lengths]
        _require_fitting(lengths, context_tokens=self.architecture.context_tokens)
        longest, num_rows = max(lengths), self.num_rows
        num_heads = self.architecture.num_heads
        self._cache.reserve(num_rows, longest)
        positions = torch.tensor(self.lengths, device=self.device)
        rows = torch.arange(num_rows, device=self.device)
        mask = self._mask(positions, longest) if len(set(lengths)) > 1 else None

        def attend(index: int, qkv: Tensor) -> Tensor:
            cached = self._cache.layers[index]
            if mask is None:
                cached[:num_rows, :, longest - 1] = qkv[:, num_heads:]
            else:
                cached[rows, :, positions] = qkv[:, num_heads:]
            keys = cached[:num_rows, :num_heads, :longest]
            values = cached[:num_rows, num_heads:, :longest]
            q = qkv[:, :num_heads, None]
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask).flatten(1)

        ids = torch.tensor(tokens, device=self.device)
        hidden = self._hidden(ids, self._rotary.at(positions), attend)
        self.lengths = lengths
        return self._logits(hidden)

    @torch.inference_mode()
    def evict(self, row: int) -> None:
        """Remove a row; the last row, if it is another, takes its place."""
        last = self.lengths.pop()
        if row < self.num_rows:
            self.lengths[row] = last
            self._cache.move(self.num_rows, row, num_positions=last)

    def _hidden(
        self, ids: Int[Tensor, " N"], rotation: _Rotation, attend: Attend
    ) -> Float[Tensor, "N C"]:
        x = self._embedding[ids]
        for index, layer in enumerate(self._layers):
            x = x.add_(layer.out(attend(index, layer.rotated_qkv(x, rotation))))
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, dim=-1)
            x = x.add_(layer.down(F.silu(gate).mul_(up)))
        return x

    def _logits(self, hidden: Float[Tensor, "B C"]) -> Float[Tensor, "B V"]:
        return self._head(self._norm(hidden)).float()

    def _mask(self, positions: Int[Tensor, " B"], longest: int) -> Float[Tensor, "B 1 1 T"]:
        """Return minus infinity where a row has no token yet: shorter rows are padded."""
        unseen = torch.arange(longest, device=self.device) > positions[:, None]
        zeros = torch.zeros(unseen.shape, dtype=self._embedding.dtype, device=self.device)
        return zeros.masked_fill_(unseen, float("-inf"))[:, None, None]


class Projection:
    """Matrices [outputs, inputs] of one input, multiplied in one product where that is faster."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = list(weights)
        self._packed = _packed(self._weights)
        if self._packed is not None:
            self._weights = []

    def __call__(self, x: Float[Tensor, "N inputs"]) -> Float[Tensor, "N outputs"]:
        """Return the products with all matrices, concatenated."""
        if self._packed is not None:
            return torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
        products = [F.linear(x, weight) for weight in self._weights]
        return products[0] if len(products) == 1 else torch.cat(products, dim=-1)


def _packed(weights: Sequence[Tensor]) -> Tensor | None:
    """Return matrices concatenated in oneDNN's layout, or None without oneDNN."""
    usable = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if not usable or weights[0].device.type != "cpu" or weights[0].dtype != torch.float32:
        return None
    try:
        return torch.ops.mkldnn._reorder_linear_weight(torch.cat(list(weights)), PACKED_FOR_ROWS)
    except (RuntimeError, NotImplementedError):  # operators of PyTorch's own compiler, not public
        return None


class _Norm:
    """RMSNorm by the length of a vector: half the time of ``F.rms_norm`` for a few short ones."""

    def __init__(self, weight: Tensor, *, epsilon: float) -> None:
        width = weight.shape[-1]
        self._weight = weight.detach() * width**0.5
        self._least_length = weight.new_tensor((width * epsilon) ** 0.5)

    def __call__(self, x: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x.div(length.hypot_(self._least_length)).mul_(self._weight)


class _RotaryEmbedding:
    """Cosines and sines of positions; the sine's first half is negative, as ``rotate`` needs it."""

    def __init__(self, cosine: Float[Tensor, "T D"], sine: Float[Tensor, "T D"]) -> None:
        first, second = sine.chunk(2, dim=-1)
        self._cosine, self._sine = cosine, torch.cat((-first, second), dim=-1)

    def at(self, positions: Int[Tensor, " N"]) -> _Rotation:
        """Return the rotation of tokens at these positions."""
        return _Rotation(self._cosine[positions][:, None], self._sine[positions][:, None])


@dataclass(frozen=True)
class _Rotation:
    """Cosines and sines of some tokens."""

    cosine: Float[Tensor, "N 1 D"]
    sine: Float[Tensor, "N 1 D"]

    def write(self, x: Float[Tensor, "N H D"], out: Float[Tensor, "N H D"]) -> None:
        """Write the rotated heads of the tokens."""
        first, second = x.chunk(2, dim=-1)
        torch.addcmul(x * self.cosine, torch.cat((second, first), dim=-1), self.sine, out=out)


@dataclass(frozen=True)
class _Layer:
    """The weights of one block; queries and keys are normed together."""

    num_heads: int
    head_dim: int
    attention_norm: _Norm
    qkv: Projection
    qk_norm: _Norm
    out: Projection
    mlp_norm: _Norm
    gate_up: Projection
    down: Projection

    @classmethod
    def of(cls, block: Block, architecture: Architecture) -> _Layer:
        attention, mlp = block.self_attn, block.mlp
        num_heads, epsilon = architecture.num_heads, architecture.norm_epsilon
        of_input = (attention.q_proj, attention.k_proj, attention.v_proj)
        of_heads = [
            part.weight.expand(num_heads, -1) for part in (attention.q_norm, attention.k_norm)
        ]
        return cls(
            num_heads=num_heads,
            head_dim=architecture.head_dim,
            attention_norm=_Norm(block.input_layernorm.weight, epsilon=epsilon),
            qkv=Projection([part.weight.detach() for part in of_input]),
            qk_norm=_Norm(torch.cat(of_heads), epsilon=epsilon),
            out=Projection([attention.o_proj.weight.detach()]),
            mlp_norm=_Norm(block.post_attention_layernorm.weight, epsilon=epsilon),
            gate_up=Projection([mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()]),
            down=Projection([mlp.down_proj.weight.detach()]),
        )

    def rotated_qkv(self, x: Float[Tensor, "N C"], rotation: _Rotation) -> Float[Tensor, "N 3H D"]:
        """Return queries and keys, normed and rotated, and values, head after head."""
        qkv = self.qkv(self.attention_norm(x)).view(len(x), 3 * self.num_heads, self.head_dim)
        qk = qkv[:, : 2 * self.num_heads]
        rotation.write(self.qk_norm(qk), out=qk)
        return qkv


class _Cache:
    """Keys and values of every layer, ``[rows, 2 H, tokens, D]``, keys first.

    Grows by doubling. Starts as zeros: a masked position still enters as a product with zero.
    """

    def __init__(self, model: GPT) -> None:
        self._architecture = model.architecture
        self._like = model.head_weight  # its type and device
        self._num_rows = self._num_tokens = 0
        self.layers: list[Tensor] = []

    def reserve(self, num_rows: int, num_tokens: int) -> None:
        if num_rows <= self._num_rows and num_tokens <= self._num_tokens:
            return
        rows, tokens = max(1, self._num_rows), max(FIRST_CAPACITY_TOKENS, self._num_tokens)
        while rows < num_rows:
            rows *= 2
        while tokens < num_tokens:
            tokens *= 2
        self._num_rows = rows
        self._num_tokens = min(tokens, self._architecture.context_tokens)
        self.layers = self._grown(self.layers)

    def _grown(self, old: list[Tensor]) -> list[Tensor]:
        a = self._architecture
        shape = (self._num_rows, 2 * a.num_heads, self._num_tokens, a.head_dim)
        options = {"dtype": self._like.dtype, "device": self._like.device}
        new = [torch.zeros(shape, **options) for _ in range(a.num_layers)]
        for target, source in zip(new, old, strict=False):
            target[: source.shape[0], :, : source.shape[2]] = source
        return new

    def move(self, source: int, target: int, *, num_positions: int) -> None:
        for layer in self.layers:
            layer[target, :, :num_positions] = layer[source, :, :num_positions]


def _require_fitting(lengths: Sequence[int], *, context_tokens: int) -> None:
    wrong = [length for length in lengths if not 0 < length <= context_tokens]
    if wrong or not lengths:
        raise ConfigError(
            "a row does not fit the model's context",
            expected=f"rows of 1 to {context_tokens} tokens",
            found=f"{wrong[0]} tokens" if wrong else "no row",
            fix="cut the text to its last tokens, or train with a larger model.context_tokens",
        )
