"""Packing of documents into training rows: slices of shards for each row.

A row is ``context`` inputs, each with the token after it as its target. ``pack_best_fit`` keeps
documents whole where they fit: rows begin with a document, or continue one longer than a row.
``pack_concat`` cuts the flat tokens of a shard every ``context`` tokens. In both every token and
the end of every document is a target once, and nothing is dropped. Only lengths are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.data.rows import Segments
from model.data.shards import BoolArray, Int32Array, Int64Array
from tasks.tokens.best_fit import best_fit_rows


def pack_concat(shard_token_counts: Sequence[int], context_tokens: int) -> Segments:
    """Return rows that cut each shard's flat tokens into pieces of context + 1.

    Neighbouring rows share one token, so that every token of a shard but its first is a target of
    exactly one row. A shard's last row may be shorter; no row spans two shards.

    Example:
        >>> rows = pack_concat([7], 3)
        >>> rows.start.tolist(), rows.length.tolist()
        ([0, 3], [4, 4])
    """
    counts = np.asarray(shard_token_counts, dtype=np.int64)
    rows_per_shard = np.maximum(0, -(-(counts - 1) // context_tokens))
    num_rows = int(rows_per_shard.sum())
    shard = np.repeat(np.arange(len(counts)), rows_per_shard)
    first_row = np.cumsum(rows_per_shard) - rows_per_shard
    start = (np.arange(num_rows) - first_row[shard]) * context_tokens
    return Segments(
        row_offsets=np.arange(num_rows + 1, dtype=np.int64),
        shard=shard.astype(np.int32),
        start=start,
        length=np.minimum(context_tokens + 1, counts[shard] - start).astype(np.int32),
    )


def pack_best_fit(shard_lengths: Sequence[Int32Array], context_tokens: int) -> Segments:
    """Return rows that hold whole documents, or full pieces of longer ones, almost no padding.

    A document of ``n`` tokens is ``n`` inputs: its tokens; and ``n`` targets: its tokens but the
    first, and the ``<|endoftext|>`` that ends it. A document longer than the context is cut every
    ``context`` inputs; full pieces are rows of their own, and the remainder, like every
    shorter document, is an item that is packed best-fit-decreasing. The ``<|endoftext|>`` that ends
    an item is the first token of the document after it in the row, or where none follows the token
    after it in the shard, which is one as well. So as many tokens are targets as there are tokens.

    Args:
        shard_lengths: tokens of each document of each shard, in the order of the shard.
        context_tokens: inputs of a row.

    Example:
        >>> rows = pack_best_fit([np.array([7, 2], dtype=np.int32)], 5)
        >>> rows.row_offsets.tolist(), rows.start.tolist(), rows.length.tolist()
        ([0, 1, 4], [0, 5, 7, 0], [6, 2, 2, 1])
    """
    documents = _Documents.of(shard_lengths, context_tokens)
    full, packed = _full_pieces(documents), _packed_items(documents)
    pieces = _Pieces(
        row_offsets=np.concatenate([full.row_offsets, full.num_pieces + packed.row_offsets[1:]]),
        document=np.concatenate([full.document, packed.document]),
        start=np.concatenate([full.start, packed.start]),
        inputs=np.concatenate([full.inputs, packed.inputs]),
    )
    shard_tokens = np.array([lengths.sum(dtype=np.int64) for lengths in shard_lengths])
    return _with_ends(pieces, documents, shard_tokens=shard_tokens)


def whole_document_rows(shard_lengths: Sequence[Int32Array], row: Int32Array) -> Segments:
    """Return rows of whole documents, each a segment of its own.

    Args:
        shard_lengths: tokens of each document of each shard.
        row: number of the row that takes each document of all shards.

    Example:
        >>> lengths = [np.array([5, 3, 7, 2], dtype=np.int32)]
        >>> rows = whole_document_rows(lengths, np.array([1, 0, 0, 1], dtype=np.int32))
        >>> rows.row_offsets.tolist(), rows.start.tolist()
        ([0, 2, 4], [5, 8, 0, 15])
    """
    numbers = np.arange(len(shard_lengths), dtype=np.int32)
    shard = np.repeat(numbers, [len(item) for item in shard_lengths])
    starts = [np.cumsum(item, dtype=np.int64) - item for item in shard_lengths]
    by_row = np.argsort(row, kind="stable")
    return Segments(
        row_offsets=np.append(0, np.cumsum(np.bincount(row), dtype=np.int64)),
        shard=shard[by_row],
        start=np.concatenate(starts)[by_row],
        length=np.concatenate(shard_lengths)[by_row],
    )


@dataclass(frozen=True, eq=False)
class _Documents:
    """All documents of all shards, and their cuts."""

    context_tokens: int
    shard: Int32Array
    start: Int32Array  # in its shard, which has fewer than 2**31 tokens
    num_full: Int32Array  # pieces that fill a row
    rest: Int32Array  # inputs after those

    @classmethod
    def of(cls, shard_lengths: Sequence[Int32Array], context_tokens: int) -> _Documents:
        lengths = np.concatenate(shard_lengths)
        starts = [np.cumsum(item, dtype=np.int32) - item for item in shard_lengths]
        numbers = np.arange(len(shard_lengths), dtype=np.int32)
        return cls(
            context_tokens=context_tokens,
            shard=np.repeat(numbers, [len(item) for item in shard_lengths]),
            start=np.concatenate(starts),
            num_full=lengths // context_tokens,
            rest=lengths % context_tokens,
        )


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Pieces of documents by row, without the last target of each."""

    row_offsets: Int64Array
    document: Int32Array
    start: Int32Array  # in the shard
    inputs: Int32Array

    @property
    def num_pieces(self) -> int:
        return len(self.document)


def _full_pieces(documents: _Documents) -> _Pieces:
    """Return the pieces that fill a row, each as a row of its own."""
    counts = documents.num_full
    document = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    number = np.arange(len(document), dtype=np.int64)
    number -= np.repeat(np.cumsum(counts, dtype=np.int64) - counts, counts)
    context_tokens = documents.context_tokens
    return _Pieces(
        row_offsets=np.arange(len(document) + 1, dtype=np.int64),
        document=document,
        start=documents.start[document] + (number * context_tokens).astype(np.int32),
        inputs=np.full(len(document), context_tokens, dtype=np.int32),
    )


def _packed_items(documents: _Documents) -> _Pieces:
    """Return the pieces that do not fill a row, packed; in each row the remainders come first.

    A remainder's ``<|endoftext|>`` cannot be the beginning of another remainder, so that it counts
    as part of its size. Documents are taken in their shuffled order, so that those of equal size
    share a row by chance.
    """
    is_item, is_remainder = documents.rest > 0, documents.num_full > 0
    items = np.concatenate(
        [np.flatnonzero(is_item & is_remainder), np.flatnonzero(is_item & ~is_remainder)]
    ).astype(np.int32)
    sizes = documents.rest[items] + is_remainder[items]
    row = best_fit_rows(sizes, capacity=documents.context_tokens)
    items = items[np.argsort(row, kind="stable")]
    offset = documents.num_full[items] * np.int32(documents.context_tokens)
    return _Pieces(
        row_offsets=np.append(0, np.cumsum(np.bincount(row), dtype=np.int64)),
        document=items,
        start=documents.start[items] + offset,
        inputs=documents.rest[items],
    )


def _with_ends(pieces: _Pieces, documents: _Documents, *, shard_tokens: Int64Array) -> Segments:
    """Return the pieces as segments that hold each piece's last target as well.

    It is the token after the piece, unless a document follows in the row, whose first token it is.
    After the last token of a shard comes the ``<|endoftext|>`` at its beginning.
    """
    shard = documents.shard[pieces.document]
    is_continued = _is_continued(pieces, documents)
    needs_end = np.zeros(pieces.num_pieces, dtype=np.bool_)
    needs_end[pieces.row_offsets[1:] - 1] = True
    needs_end[:-1] |= is_continued[1:]
    at_shard_end = pieces.start.astype(np.int64) + pieces.inputs == shard_tokens[shard]
    wraps = np.flatnonzero(needs_end & at_shard_end)
    return Segments(
        row_offsets=pieces.row_offsets + np.searchsorted(wraps, pieces.row_offsets),
        shard=np.insert(shard, wraps + 1, shard[wraps]),
        start=np.insert(pieces.start, wraps + 1, 0).astype(np.int64),
        length=np.insert(pieces.inputs + (needs_end & ~at_shard_end), wraps + 1, 1),
        num_masked_starts=int(is_continued.sum()),
    )


def _is_continued(pieces: _Pieces, documents: _Documents) -> BoolArray:
    """Return which pieces continue a document inside a row, after another piece."""
    is_continued = pieces.start != documents.start[pieces.document]
    is_continued[pieces.row_offsets[:-1]] = False
    return is_continued
