"""Conversations to training shards with a loss mask, and to rows that hold whole ones.

Writes ``shard-00000.arrow``, … and ``rows.arrow`` of some tables of conversations. A row takes
conversations best-fit-decreasing and is padded: none is cut, and each has an answer to learn. All
begin with ``<|endoftext|>``, which is never learned, so that nothing of one is a target of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from model.conversation import Lesson
from model.errors import CorpusError
from model.rows import ROWS_FILE, Segments, write_rows
from model.shards import Int32Array, ShardHeader, doc_identities, shard_name, write_shard
from model.tokenizer import Tokenizer
from tasks.tokens.best_fit import best_fit_rows
from tasks.tokens.chats import ChatTable, file_names, teach


@dataclass(frozen=True)
class ChatShardCounts:
    """What went into the shards; conversations in = ``num_kept`` + ``too_long``.

    Args:
        num_cut: of those kept, the ones that lost turns at their end.
        num_targets: ids that the loss mask marks.
    """

    num_in: int
    num_kept: int
    too_long: int
    num_cut: int
    num_shards: int
    num_tokens: int
    num_targets: int
    num_rows: int
    num_padding: int


def write_chat_shards(
    tables: Sequence[ChatTable],
    *,
    tokenizer_directory: Path,
    split: str,
    seed: int,
    context_tokens: int,
    shard_tokens: int,
    destination: Path,
) -> ChatShardCounts:
    """Write the shards and rows of some tables of conversations.

    Args:
        split, seed: for the header.
        shard_tokens: tokens per shard, about: a conversation is never cut.
        destination: directory that takes the files; made if missing.

    Raises:
        CorpusError: no conversation fits a row.
        ArtifactError: a table cannot be read.
        TokenizerError: the tokenizer cannot be loaded.
    """
    tokenizer = Tokenizer.load(tokenizer_directory)
    header = ShardHeader(
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        split=split,
        seed=seed,
        files=file_names(tables),
    )
    destination.mkdir(parents=True, exist_ok=True)
    shards = LessonShards(destination, header, shard_tokens)
    num_in = num_cut = 0
    for table in tables:
        for taught in teach(table, tokenizer, row_tokens=context_tokens + 1):
            num_in += 1
            if taught.lesson is not None:
                num_cut += taught.is_cut
                shards.add(taught.file, taught.row, taught.lesson)
    shards.close()
    _require_some(shards.num_docs, num_in=num_in, context_tokens=context_tokens, split=split)
    segments = pack_whole(shards.lengths, row_tokens=context_tokens + 1)
    write_rows(destination / ROWS_FILE, segments, context_tokens=context_tokens)
    return ChatShardCounts(
        num_in=num_in,
        num_kept=shards.num_docs,
        too_long=num_in - shards.num_docs,
        num_cut=num_cut,
        num_shards=len(shards.lengths),
        num_tokens=sum(int(item.sum()) for item in shards.lengths),
        num_targets=shards.num_targets,
        num_rows=segments.num_rows,
        num_padding=segments.num_padding(context_tokens),
    )


def pack_whole(shard_lengths: Sequence[Int32Array], *, row_tokens: int) -> Segments:
    """Return rows of whole documents, each a segment of its own.

    Args:
        shard_lengths: tokens of each document of each shard; none has more than a row.

    Example:
        >>> rows = pack_whole([np.array([5, 3, 7, 2], dtype=np.int32)], row_tokens=10)
        >>> rows.row_offsets.tolist(), rows.start.tolist()
        ([0, 2, 4], [5, 8, 0, 15])
    """
    sizes = np.concatenate(shard_lengths).astype(np.int32)
    numbers = np.arange(len(shard_lengths), dtype=np.int32)
    shard = np.repeat(numbers, [len(item) for item in shard_lengths])
    starts = [np.cumsum(item, dtype=np.int64) - item for item in shard_lengths]
    row = best_fit_rows(sizes, capacity=row_tokens)
    by_row = np.argsort(row, kind="stable")
    return Segments(
        row_offsets=np.append(0, np.cumsum(np.bincount(row), dtype=np.int64)),
        shard=shard[by_row],
        start=np.concatenate(starts)[by_row],
        length=sizes[by_row],
    )


@dataclass
class LessonShards:
    """Shards of one directory, written one after the other as conversations come."""

    directory: Path
    header: ShardHeader
    shard_tokens: int
    lengths: list[Int32Array] = field(default_factory=list)  # of each shard that is written
    num_docs: int = 0
    num_targets: int = 0
    _lessons: list[Lesson] = field(default_factory=list)
    _docs: list[tuple[int, int]] = field(default_factory=list)
    _num_waiting: int = 0

    def __post_init__(self) -> None:
        self._index_of = {name: index for index, name in enumerate(self.header.files)}

    def add(self, file: str, row: int, lesson: Lesson) -> None:
        """Append a conversation."""
        self._lessons.append(lesson)
        self._docs.append((self._index_of[file], row))
        self.num_docs += 1
        self.num_targets += int(lesson.mask.sum())
        self._num_waiting += len(lesson.ids)
        if self._num_waiting >= self.shard_tokens:
            self.close()

    def close(self) -> None:
        """Write what waits for a shard."""
        if not self._lessons:
            return
        lengths = np.array([len(lesson.ids) for lesson in self._lessons], dtype=np.int64)
        file_index, row = np.array(self._docs, dtype=np.int64).T
        write_shard(
            self.directory / shard_name(len(self.lengths)),
            docs=doc_identities(file_index, row),
            lengths=lengths,
            tokens=np.concatenate([lesson.ids for lesson in self._lessons]),
            header=self.header,
            loss_mask=np.concatenate([lesson.mask for lesson in self._lessons]),
        )
        self.lengths.append(lengths.astype(np.int32))
        self._lessons, self._docs, self._num_waiting = [], [], 0


def _require_some(num_docs: int, *, num_in: int, context_tokens: int, split: str) -> None:
    if num_docs:
        return
    is_held_out = split == "validation"
    raise CorpusError(
        f"no conversation is left for {split}",
        expected=f"at least one whose first exchange fits {context_tokens + 1} tokens",
        found=f"{num_in} conversations, all of them longer" if num_in else "none",
        fix="raise chat.held_out_frac, or give more conversations"
        if is_held_out and not num_in
        else "raise model.context_tokens, or give shorter conversations",
    )
