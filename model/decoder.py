"""The network as it writes: one token per row and step, from a cache of keys and values.

``Decoder`` reads the weights of a ``GPT`` once, and computes what ``GPT.forward`` computes for the
last position of every row, without computing the earlier ones again. Rows are independent texts of
different lengths that share each step; they may join and leave between any two steps. No sampling
and no text here: see ``model.sampling`` and ``model.batch_engine``.

On a CPU, matrices that read the same input are joined, and stored as oneDNN wants them for few rows
(docs/decisions/018-generation-and-serving.md); elsewhere the weights are used where they lie.

Dimensions in shapes: B rows, T time, C width, H heads, D head width, V vocabulary, N = B * T.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from model.errors import ConfigError
from model.gpt import GPT, Block, rms_norm, rotate

PACKED_FOR_ROWS = 16  # a hint of oneDNN's packing; 8 and 64 were as fast for 1 to 16 rows
FIRST_CAPACITY_TOKENS = 128  # the cache starts this long and doubles when a row outgrows it

Mix = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Decoder:
    """A model with a cache: rows of text that grow by one token per step.

    Args:
        model: its weights are read here; weights it gets later are not seen.
    """

    @torch.inference_mode()
    def __init__(self, model: GPT) -> None:
        self.architecture = model.architecture
        self.device = model.head_weight.device
        self.lengths: list[int] = []
        self._table = model.model.embed_tokens.weight.detach()
        self._layers = [_Layer.of(block) for block in model.model.layers]  # pyright: ignore[reportArgumentType]
        self._norm = model.model.norm.weight.detach()
        self._head = Projection([model.head_weight.detach()])
        self._cosine, self._sine = model.model.cosine, model.model.sine
        self._cache = _Cache(model)

    @property
    def num_rows(self) -> int:
        """Return how many rows there are now."""
        return len(self.lengths)

    @torch.inference_mode()
    def join(self, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "B V"]:
        """Add a row for each prompt, after the rows that are there; return their next logits.

        Prompts are padded at their ends: no token sees what comes after it, so padding is unseen.

        Raises:
            ConfigError: a prompt is empty or longer than the context.
        """
        lengths = [len(prompt) for prompt in prompts]
        _require_fitting(lengths, context_tokens=self.architecture.context_tokens)
        num_positions, first = max(lengths), self.num_rows
        padded = [[*prompt, *[0] * (num_positions - len(prompt))] for prompt in prompts]
        self._cache.reserve(first + len(prompts), num_positions)
        rows = slice(first, first + len(prompts))
        cosine, sine = self._cosine[:num_positions], self._sine[:num_positions]

        def mix(index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (self._heads(part, num_positions) for part in (q, k, v))
            q, k = self._turned(index, q, k, cosine, sine)
            self._cache.keys[index][rows, :, :num_positions] = k
            self._cache.values[index][rows, :, :num_positions] = v
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return mixed.transpose(1, 2).flatten(2).flatten(0, 1)

        hidden = self._hidden(torch.tensor(padded, device=self.device).flatten(), mix)
        self.lengths += lengths
        last = torch.tensor(lengths, device=self.device) - 1
        starts = torch.arange(len(prompts), device=self.device) * num_positions
        return self._logits(hidden[starts + last])

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Float[Tensor, "B V"]:
        """Add one token to each row and return the logits of the tokens after them.

        Raises:
            ConfigError: there are not as many tokens as rows, or a row has filled its context.
        """
        if len(tokens) != self.num_rows:
            raise ConfigError(
                "a step takes one token for each row", expected=self.num_rows, found=len(tokens)
            )
        lengths = [length + 1 for length in self.lengths]
        _require_fitting(lengths, context_tokens=self.architecture.context_tokens)
        longest, num_rows = max(lengths), self.num_rows
        self._cache.reserve(num_rows, longest)
        positions = torch.tensor(self.lengths, device=self.device)
        rows = torch.arange(num_rows, device=self.device)
        cosine, sine = self._cosine[positions], self._sine[positions]
        mask = self._mask(positions, longest) if len(set(lengths)) > 1 else None

        def mix(index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (self._heads(part, num_rows) for part in (q, k, v))  # rows in place of time
            q, k = self._turned(index, q, k, cosine, sine)
            keys, values = self._cache.keys[index], self._cache.values[index]
            keys[rows, :, positions] = k[0].transpose(0, 1)
            values[rows, :, positions] = v[0].transpose(0, 1)
            mixed = F.scaled_dot_product_attention(
                q.permute(2, 1, 0, 3),
                keys[:num_rows, :, :longest],
                values[:num_rows, :, :longest],
                attn_mask=mask,
            )
            return mixed.flatten(1)

        hidden = self._hidden(torch.tensor(tokens, device=self.device), mix)
        self.lengths = lengths
        return self._logits(hidden)

    @torch.inference_mode()
    def leave(self, row: int) -> None:
        """Take a row away; the last row, if it is another, takes its place."""
        last = self.lengths.pop()
        if row < self.num_rows:
            self.lengths[row] = last
            self._cache.move(self.num_rows, row, num_positions=last)

    def _hidden(self, ids: Int[Tensor, " N"], mix: Mix) -> Float[Tensor, "N C"]:
        epsilon = self.architecture.norm_epsilon
        x = self._table[ids]
        for index, layer in enumerate(self._layers):
            q, k, v = layer.qkv(rms_norm(x, layer.attention_norm, epsilon=epsilon))
            (mixed,) = layer.out(mix(index, q, k, v))
            x = x + mixed
            gate, up = layer.gate_up(rms_norm(x, layer.mlp_norm, epsilon=epsilon))
            (moved,) = layer.down(F.silu(gate) * up)
            x = x + moved
        return x

    def _logits(self, hidden: Float[Tensor, "B C"]) -> Float[Tensor, "B V"]:
        normed = rms_norm(hidden, self._norm, epsilon=self.architecture.norm_epsilon)
        (logits,) = self._head(normed)
        return logits.float()

    def _heads(self, x: Float[Tensor, "N HD"], num_positions: int) -> Float[Tensor, "B H T D"]:
        shape = (-1, num_positions, self.architecture.num_heads, self.architecture.head_dim)
        return x.view(shape).transpose(1, 2)

    def _turned(
        self, index: int, q: Tensor, k: Tensor, cosine: Tensor, sine: Tensor
    ) -> tuple[Tensor, Tensor]:
        layer, epsilon = self._layers[index], self.architecture.norm_epsilon
        q = rotate(rms_norm(q, layer.q_norm, epsilon=epsilon), cosine, sine)
        return q, rotate(rms_norm(k, layer.k_norm, epsilon=epsilon), cosine, sine)

    def _mask(self, positions: Int[Tensor, " B"], longest: int) -> Float[Tensor, "B 1 1 T"]:
        """Return minus infinity where a row has no token yet: shorter rows lie in padding."""
        unseen = torch.arange(longest, device=self.device) > positions[:, None]
        zeros = torch.zeros(unseen.shape, dtype=self._table.dtype, device=self.device)
        return zeros.masked_fill_(unseen, float("-inf"))[:, None, None]


class Projection:
    """Matrices that read the same input; in one product where that is faster.

    Args:
        weights: each of shape [outputs, inputs].
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = list(weights)
        self._sizes = [weight.shape[0] for weight in weights]
        self._packed = _packed(self._weights)
        if self._packed is not None:
            self._weights = []

    def __call__(self, x: Float[Tensor, "N inputs"]) -> tuple[Tensor, ...]:
        """Return the product with each matrix."""
        if self._packed is None:
            return tuple(F.linear(x, weight) for weight in self._weights)
        joined = torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
        return joined.split(self._sizes, dim=-1)


def _packed(weights: Sequence[Tensor]) -> Tensor | None:
    """Return matrices joined in oneDNN's layout, or None where this build or machine has none."""
    usable = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if not usable or weights[0].device.type != "cpu" or weights[0].dtype != torch.float32:
        return None
    try:
        return torch.ops.mkldnn._reorder_linear_weight(torch.cat(list(weights)), PACKED_FOR_ROWS)
    except (RuntimeError, NotImplementedError):  # operators of PyTorch's own compiler, not public
        return None


@dataclass(frozen=True)
class _Layer:
    """The weights of one block."""

    attention_norm: Tensor
    qkv: Projection
    q_norm: Tensor
    k_norm: Tensor
    out: Projection
    mlp_norm: Tensor
    gate_up: Projection
    down: Projection

    @classmethod
    def of(cls, block: Block) -> _Layer:
        attention, mlp = block.self_attn, block.mlp
        joined = (attention.q_proj, attention.k_proj, attention.v_proj)
        return cls(
            attention_norm=block.input_layernorm.weight.detach(),
            qkv=Projection([part.weight.detach() for part in joined]),
            q_norm=attention.q_norm.weight.detach(),
            k_norm=attention.k_norm.weight.detach(),
            out=Projection([attention.o_proj.weight.detach()]),
            mlp_norm=block.post_attention_layernorm.weight.detach(),
            gate_up=Projection([mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()]),
            down=Projection([mlp.down_proj.weight.detach()]),
        )


class _Cache:
    """Keys and values of every layer, ``[rows, H, tokens, D]``; grows by doubling, zeros at first.

    Zeros, because a masked position still takes part as a product with zero.
    """

    def __init__(self, model: GPT) -> None:
        self._architecture = model.architecture
        self._like = model.head_weight  # its type and device
        self._num_rows = self._num_tokens = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

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
        self.keys, self.values = self._grown(self.keys), self._grown(self.values)

    def _grown(self, old: list[Tensor]) -> list[Tensor]:
        a = self._architecture
        shape = (self._num_rows, a.num_heads, self._num_tokens, a.head_dim)
        options = {"dtype": self._like.dtype, "device": self._like.device}
        new = [torch.zeros(shape, **options) for _ in range(a.num_layers)]
        for target, source in zip(new, old, strict=False):
            target[: source.shape[0], :, : source.shape[2]] = source
        return new

    def move(self, source: int, target: int, *, num_positions: int) -> None:
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :num_positions] = tensor[source, :, :num_positions]


def _require_fitting(lengths: Sequence[int], *, context_tokens: int) -> None:
    wrong = [length for length in lengths if not 0 < length <= context_tokens]
    if wrong or not lengths:
        raise ConfigError(
            "a row does not fit the model's context",
            expected=f"rows of 1 to {context_tokens} tokens",
            found=f"{wrong[0]} tokens" if wrong else "no row",
            fix="cut the text to its last tokens, or train with a larger model.context_tokens",
        )
