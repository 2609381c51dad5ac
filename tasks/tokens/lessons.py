"""Tables of records to training shards with a loss mask, and to rows that hold whole lessons.

Writes ``shard-00000.arrow``, … and ``rows.arrow`` of some tables. What a record teaches and which
lessons share a row, a ``LessonKind`` says: ``tasks.tokens.chat_shards`` and ``preference_shards``
have one each. Rows are padded, and no lesson is cut to fill one. All begin with ``<|endoftext|>``,
which is never learned, so that nothing of one is a target of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from model.core.errors import CorpusError
from model.data.rows import ROWS_FILE, Segments, write_rows
from model.data.shards import Int32Array, ShardHeader, doc_identities, shard_name, write_shard
from model.text.conversation import SFTExample
from model.text.tokenizer import Tokenizer
from tasks.config.chat import LessonLayout
from tasks.tokens.record_tables import RecordTable, Taught, file_names


class Teach(Protocol):
    """Makes lessons of the records of a table."""

    def __call__(
        self, table: RecordTable, tokenizer: Tokenizer, *, row_tokens: int
    ) -> Iterator[Taught]:
        """Yield the records in order, none of their lessons longer than a row."""
        ...


class PlaceInRows(Protocol):
    """Decides which lessons share a row."""

    def __call__(self, sizes: Int32Array, *, capacity: int) -> Int32Array:
        """Return the number of each lesson's row; rows are numbered from 0 without a gap."""
        ...


@dataclass(frozen=True)
class LessonKind:
    """What records teach, and how that is laid out.

    Args:
        shortened: name of the count of records that lost turns.
        nothing_left: given how many records there were and the layout, returns the error to raise
            where no lesson fits a row.
    """

    teach: Teach
    place: PlaceInRows
    shortened: str
    nothing_left: Callable[[int, LessonLayout], CorpusError]


@dataclass(frozen=True)
class LessonCounts:
    """What went into the shards; records in = ``num_kept`` + ``too_long``.

    Args:
        num_shortened: of those kept, the ones that lost turns.
        num_targets: ids that the loss mask marks.
    """

    num_in: int
    num_kept: int
    too_long: int
    num_shortened: int
    num_shards: int
    num_tokens: int
    num_targets: int
    num_rows: int
    num_padding: int

    def of_stage(self, kind: LessonKind) -> dict[str, int]:
        """Return them as the counts of the stage that wrote the shards."""
        names = {"num_shortened": kind.shortened}
        return {names.get(name, name): count for name, count in asdict(self).items()}


def write_lessons(
    tables: Sequence[RecordTable],
    *,
    kind: LessonKind,
    layout: LessonLayout,
    tokenizer_directory: Path,
    destination: Path,
) -> LessonCounts:
    """Write the shards and rows of some tables of records.

    Args:
        destination: directory that takes the files; made if missing.

    Raises:
        CorpusError: no record fits a row.
        ArtifactError: a table cannot be read.
        SourceRecordError: a table holds what is no conversation.
        TokenizerError: the tokenizer cannot be loaded.
    """
    tokenizer = Tokenizer.load(tokenizer_directory)
    header = ShardHeader(
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        split=layout.split,
        seed=layout.seed,
        files=file_names(tables),
    )
    destination.mkdir(parents=True, exist_ok=True)
    shards = _LessonShards(destination, header, layout.shard_tokens)
    num_in = num_kept = num_shortened = 0
    for table in tables:
        for taught in kind.teach(table, tokenizer, row_tokens=layout.row_tokens):
            num_in += 1
            num_kept += bool(taught.lessons)
            num_shortened += taught.is_shortened
            for lesson in taught.lessons:
                shards.add(taught.file, taught.row, lesson)
    shards.close()
    if not num_kept:
        raise kind.nothing_left(num_in, layout)
    row = kind.place(np.concatenate(shards.lengths), capacity=layout.row_tokens)
    segments = whole_segments(shards.lengths, row)
    write_rows(destination / ROWS_FILE, segments, context_tokens=layout.context_tokens)
    return LessonCounts(
        num_in=num_in,
        num_kept=num_kept,
        too_long=num_in - num_kept,
        num_shortened=num_shortened,
        num_shards=len(shards.lengths),
        num_tokens=sum(int(item.sum()) for item in shards.lengths),
        num_targets=shards.num_targets,
        num_rows=segments.num_rows,
        num_padding=segments.num_padding(layout.context_tokens),
    )


def whole_segments(shard_lengths: Sequence[Int32Array], row: Int32Array) -> Segments:
    """Return rows of whole documents, each a segment of its own.

    Args:
        shard_lengths: tokens of each document of each shard.
        row: number of the row that takes each document of all shards.

    Example:
        >>> lengths = [np.array([5, 3, 7, 2], dtype=np.int32)]
        >>> rows = whole_segments(lengths, np.array([1, 0, 0, 1], dtype=np.int32))
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


@dataclass
class _LessonShards:
    """Shards of one directory, written one after the other as lessons come."""

    directory: Path
    header: ShardHeader
    shard_tokens: int
    lengths: list[Int32Array] = field(default_factory=list)  # of each shard that is written
    num_targets: int = 0
    _lessons: list[SFTExample] = field(default_factory=list)
    _docs: list[tuple[int, int]] = field(default_factory=list)
    _num_waiting: int = 0

    def __post_init__(self) -> None:
        self._index_of = {name: index for index, name in enumerate(self.header.files)}

    def add(self, file: str, row: int, lesson: SFTExample) -> None:
        """Append a lesson."""
        self._lessons.append(lesson)
        self._docs.append((self._index_of[file], row))
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
