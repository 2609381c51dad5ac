"""Causal self-attention, optionally within documents, on the fastest exact backend.

* CUDA: SDPA, which picks flash attention; within documents, FlexAttention if the block is compiled,
  else SDPA with a mask.
* CPU, training: ``blockwise``, below. CPU without gradients, or a short sequence: SDPA.

Within documents, a token attends to itself and to earlier tokens of its own document. Positions are
those of the row: attention only depends on distances between rotary angles, so the place of a
document makes no difference. Called by ``model.network.gpt``, which makes the rotary table and
holds the module ``Attention``.
"""

# pyright: reportPrivateImportUsage=false
# torch names the backward pass of its softmax with an underscore only.

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

Scope = Tensor | BlockMask | None  # restriction beyond causality: see scope_of

_Triple = tuple[Tensor, Tensor, Tensor]

BLOCK_QUERIES = 256  # queries at once; on one core 128 was about as fast, 64 and 512 mostly slower
SCORES_AT_ONCE = 2**20  # of a few heads, to fit into the cache


def scope_of(documents: Int[Tensor, "B T"] | None, *, is_compiled: bool) -> Scope:
    """Return the scope of rows of these documents, computed once for all layers.

    Args:
        documents: for each token the index of its document in the row, non-decreasing;
            ``None`` where a row is one document.
        is_compiled: whether ``attend`` runs inside a compiled function.
    """
    if documents is None or documents.device.type != "cuda" or not is_compiled:
        return documents
    num_rows, num_tokens = documents.shape
    sees = same_document(documents)
    return create_block_mask(sees, num_rows, None, num_tokens, num_tokens, device="cuda")


def same_document(documents: Int[Tensor, "B T"]) -> Callable[..., Tensor]:
    """Return the mask function for FlexAttention; ``visible`` is the same as a tensor."""

    def sees(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (documents[row, query] == documents[row, key])

    return sees


def attend(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H T D"],
    v: Float[Tensor, "B H T D"],
    scope: Scope,
) -> Float[Tensor, "B H T D"]:
    """Return scaled dot-product attention of each query over the keys in scope."""
    if isinstance(scope, BlockMask):
        return flex_attention(q, k, v, block_mask=scope)  # pyright: ignore[reportReturnType]
    if q.device.type == "cpu" and torch.is_grad_enabled() and q.shape[2] >= BLOCK_QUERIES:
        return blockwise(q, k, v, scope)
    if scope is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible(scope)[:, None])


def visible(documents: Int[Tensor, "B T"]) -> Bool[Tensor, "B T T"]:
    """Return the attention mask: the keys visible to each query."""
    num_tokens = documents.shape[1]
    causal = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=documents.device).tril()
    return causal & (documents[:, :, None] == documents[:, None, :])


def backend_name(device: torch.device, *, by_documents: bool, is_compiled: bool) -> str:
    """Return the name of the attention backend in training, for the log."""
    if device.type == "cpu":
        return "blockwise"
    if by_documents:
        return "flex" if is_compiled else "sdpa with a mask"
    cuda = torch.backends.cuda
    order = {
        "flash": cuda.flash_sdp_enabled() and cuda.is_flash_attention_available(),
        "cudnn": cuda.cudnn_sdp_enabled(),
        "memory-efficient": cuda.mem_efficient_sdp_enabled(),
    }
    return "sdpa, " + next((name for name, is_there in order.items() if is_there), "math")


def blockwise(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H T D"],
    v: Float[Tensor, "B H T D"],
    documents: Int[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B H T D"]:
    """Compute attention on a CPU in blocks of queries, each against its visible keys.

    Scores of one block and a few heads fit into the cache; the probabilities are kept for the
    backward pass. Scores and probabilities are rounded to the type of ``q``, sums are fp32.
    In bf16, forward and backward took 0.5 to 0.6 of the time of torch 2.13's flash attention
    (one core of an EPYC with avx512_bf16, 1,024 tokens, heads of 64 and 128, 2026-11-22).
    """
    gathered: Tensor = _Blockwise.apply(  # pyright: ignore[reportAssignmentType]
        q, k, v, documents
    )
    return gathered


@dataclass(frozen=True)
class _Piece:
    """A block of queries of a few heads of one row, and its stored probabilities."""

    queries: tuple[int, slice, slice]
    keys: tuple[int, slice, slice]
    kept: Float[Tensor, "heads queries keys"]

    def hide(self, scores: Float[Tensor, "heads queries keys"], documents: Tensor | None) -> None:
        """Set the scores of keys that are not visible to minus infinity, in place."""
        row, _, queries = self.queries
        keys = self.keys[2]
        size = queries.stop - queries.start
        scores[:, :, -size:].add_(_future(size, scores.dtype))
        if documents is not None:
            others = documents[row, queries, None] != documents[row, None, keys]
            scores.masked_fill_(others, -torch.inf)


@functools.cache
def _future(size: int, dtype: torch.dtype) -> Float[Tensor, "size size"]:
    """Return the additive causal mask: a sum takes a fifth of the time of a masked fill."""
    return torch.full((size, size), -torch.inf, dtype=dtype).triu(1)


def _pieces(q: Tensor, kept: Tensor, documents: Tensor | None) -> Iterator[_Piece]:
    """Yield the pieces of all rows, always in the same order.

    Keys start at the document of the block's first query.
    """
    num_rows, num_heads, num_tokens, _ = q.shape
    num_used = 0
    for row, start in itertools.product(range(num_rows), range(0, num_tokens, BLOCK_QUERIES)):
        end = min(start + BLOCK_QUERIES, num_tokens)
        first = 0
        if documents is not None:
            first = int((documents[row, : start + 1] < documents[row, start]).sum())
        heads_at_once = max(1, SCORES_AT_ONCE // (BLOCK_QUERIES * num_tokens))
        for head in range(0, num_heads, heads_at_once):
            heads = slice(head, min(head + heads_at_once, num_heads))
            shape = (heads.stop - heads.start, end - start, end - first)
            size = math.prod(shape)
            yield _Piece(
                (row, heads, slice(start, end)),
                (row, heads, slice(first, end)),
                kept[num_used : num_used + size].view(shape),
            )
            num_used += size


def _num_kept(q: Tensor) -> int:
    """Return the number of probabilities of all pieces under the causal mask alone."""
    num_rows, num_heads, num_tokens, _ = q.shape
    blocks = range(0, num_tokens, BLOCK_QUERIES)
    ends = [min(start + BLOCK_QUERIES, num_tokens) for start in blocks]
    pairs = sum((end - start) * end for start, end in zip(blocks, ends, strict=True))
    return num_rows * num_heads * pairs


@torch.library.custom_op("llm_from_scratch::blockwise_attention", mutates_args=())
def _blockwise(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the attention output, and the probabilities of all pieces, concatenated."""
    gathered = torch.empty_like(q)
    kept = q.new_zeros(_num_kept(q)) if documents is not None else q.new_empty(_num_kept(q))
    for piece in _pieces(q, kept, documents):
        scores = torch.bmm(q[piece.queries] * q.shape[-1] ** -0.5, k[piece.keys].mT)
        piece.hide(scores, documents)
        torch.softmax(scores, dim=-1, out=piece.kept)
        gathered[piece.queries] = torch.bmm(piece.kept, v[piece.keys])
    return gathered, kept


@torch.library.custom_op("llm_from_scratch::blockwise_attention_backward", mutates_args=())
def _blockwise_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values."""
    scale = q.shape[-1] ** -0.5
    of_q = torch.empty_like(q)
    of_k, of_v = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
    for piece in _pieces(q, kept, documents):
        above = gradient[piece.queries]
        of_v[piece.keys] += torch.bmm(piece.kept.mT, above)
        of_kept = torch.bmm(above, v[piece.keys].mT)
        of_scores = torch._softmax_backward_data(of_kept, piece.kept, -1, q.dtype)
        of_q[piece.queries] = torch.bmm(of_scores, k[piece.keys]) * scale
        of_k[piece.keys] += torch.bmm(of_scores.mT, q[piece.queries]) * scale
    return of_q, of_k.to(k.dtype), of_v.to(v.dtype)


@_blockwise.register_fake
def _(q: Tensor, *_others: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(_num_kept(q))


@_blockwise_backward.register_fake
def _(_gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, *_others: Tensor | None) -> _Triple:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class _Blockwise(torch.autograd.Function):
    """Autograd function of the two operators, which are opaque to compilers."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None) -> Tensor:
        gathered, kept = _blockwise(q, k, v, documents)
        ctx.save_for_backward(q, k, v, documents, kept)
        return gathered

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        return (*_blockwise_backward(gradient, *ctx.saved_tensors), None)
