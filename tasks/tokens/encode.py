"""Encoding of one table of documents as one token shard, in the order of its rows.

Reads ``part.parquet`` or ``validation.parquet`` (columns ``text``, ``file``, ``row``) in small
batches and writes ``tokens.arrow``. A document is ``<|endoftext|>`` followed by the ids of its
text: the token marks a beginning, and with it the end of what came before. Ids are collected in a
flat file beside the shard, so that memory holds one batch, however large the table.

Ids come from the fast encoder. A sample of the documents is encoded by the tokenizer itself as
well; if the two ever differ, the file is encoded again by the tokenizer alone, and counted as such.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers

from model.core.errors import ArtifactError, SourceRecordError
from model.data.shards import Int64Array, ShardHeader, UInt16Array, doc_identities, write_shard
from model.text.tokenizer import Tokenizer
from tasks.tokens.fast_encoder import NAME as FAST_ENCODER
from tasks.tokens.fast_encoder import FastEncoder, Ids

logger = logging.getLogger(__name__)

TOKENS_FILE: Final = "tokens.arrow"
BATCH_DOCS: Final = 256
BATCH_CHARS: Final = 2**21  # an encoding in memory takes some hundred bytes per token
READ_BUFFER_BYTES: Final = 2**20
PARITY_STRIDE: Final = 100  # one in so many documents is encoded twice
SLOW_ENCODER: Final = f"tokenizers {tokenizers.__version__}"

EncodeBatch = Callable[[Sequence[str]], list[Ids]]


@dataclass(frozen=True)
class EncodeCounts:
    """Counts of documents, tokens and bytes, and the encoder."""

    num_docs: int
    num_tokens: int
    num_bytes: int
    encoder: str  # library and version that made the ids
    num_compared: int  # documents whose ids were found equal to the tokenizer's own


class _UnequalIdsError(Exception):
    """The fast encoder and the tokenizer differ on a text."""


def encode_file(
    part: Path,
    *,
    tokenizer_directory: Path,
    file: str,
    split: str,
    destination: Path,
    threads: int = 1,
) -> EncodeCounts:
    """Encode every document of a table into ``destination/tokens.arrow``.

    Args:
        file: the source file all rows are of; "" takes the names found in the table, sorted.
        split: which split the documents belong to, for the shard's header.
        destination: directory that takes the shard; made if missing.
        threads: for encoding; they change no id.

    Returns:
        Counts; ``num_bytes`` is the UTF-8 size of the texts.

    Raises:
        ArtifactError: the table is missing, broken, or holds rows of another file.
        SourceRecordError: a text is NULL.
        TokenizerError: the tokenizer cannot be loaded.
    """
    tokenizer = Tokenizer.load(tokenizer_directory)
    table = _open_table(part)
    files = _file_names(table) if file == "" else (file,)
    destination.mkdir(parents=True, exist_ok=True)
    flat_path = destination / f"{TOKENS_FILE}.ids"
    first_id = np.array([tokenizer.end_of_text_id], dtype=np.uint16)
    rows = _Rows(table, files=files, first_id=first_id, where=part)
    columns = _encode(rows, tokenizer, flat_path=flat_path, threads=threads)
    header = ShardHeader(
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        split=split,
        seed=0,  # nothing is drawn here
        files=files,
    )
    lengths = np.frombuffer(columns.lengths, dtype=np.int64)
    write_shard(
        destination / TOKENS_FILE,
        docs=np.frombuffer(columns.docs, dtype=np.int64),
        lengths=lengths,
        tokens=_map_ids(flat_path),
        header=header,
    )
    flat_path.unlink()
    return EncodeCounts(
        num_docs=len(lengths),
        num_tokens=int(lengths.sum()),
        num_bytes=columns.num_bytes,
        encoder=columns.encoder,
        num_compared=columns.num_compared,
    )


@dataclass(frozen=True)
class _Rows:
    """The documents of one table, their expected files, and the id that begins each document."""

    table: pq.ParquetFile
    files: Sequence[str]
    first_id: Ids
    where: Path


@dataclass
class _Columns:
    """Identity and length of every document so far, 16 bytes each."""

    encoder: str
    docs: array[int] = field(default_factory=lambda: array("q"))
    lengths: array[int] = field(default_factory=lambda: array("q"))
    num_bytes: int = 0
    num_compared: int = 0


def _encode(rows: _Rows, tokenizer: Tokenizer, *, flat_path: Path, threads: int) -> _Columns:
    """Encode with the fast encoder, with the tokenizer where the two differ."""

    def encode_slowly(texts: Sequence[str]) -> list[Ids]:
        return [np.array(ids, dtype=np.uint16) for ids in tokenizer.encode_batch(texts)]

    fast = FastEncoder(tokenizer, threads=threads)
    try:
        columns = _Columns(encoder=FAST_ENCODER)
        _encode_rows(rows, columns, fast.encode_batch, compared=encode_slowly, flat_path=flat_path)
    except _UnequalIdsError as difference:
        logger.warning("%s; encoding with %s instead", difference, SLOW_ENCODER)
        columns = _Columns(encoder=SLOW_ENCODER)
        _encode_rows(rows, columns, encode_slowly, compared=None, flat_path=flat_path)
    return columns


def _encode_rows(
    rows: _Rows,
    columns: _Columns,
    encode_batch: EncodeBatch,
    *,
    compared: EncodeBatch | None,
    flat_path: Path,
) -> None:
    with flat_path.open("wb") as sink:
        for batch in rows.table.iter_batches(BATCH_DOCS, columns=["text", "file", "row"]):
            _require_no_null(batch, where=rows.where)
            identities = _doc_identities(batch, files=rows.files, where=rows.where)
            columns.docs.frombytes(identities.tobytes())
            for texts in _chunks(batch["text"].to_pylist()):
                encoded = encode_batch(texts)
                if compared:
                    columns.num_compared += _compare(
                        texts, encoded, compared, first=len(columns.lengths)
                    )
                columns.num_bytes += sum(len(text.encode()) for text in texts)
                columns.lengths.extend(len(ids) + 1 for ids in encoded)
                for ids in encoded:
                    sink.write(rows.first_id.tobytes())
                    sink.write(ids.tobytes())


def _compare(texts: list[str], encoded: list[Ids], encode: EncodeBatch, *, first: int) -> int:
    """Return the number of texts encoded twice; raise if one differs.

    Args:
        first: number of the first text among all documents of the file.
    """
    chosen = range(-first % PARITY_STRIDE, len(texts), PARITY_STRIDE)
    again = encode([texts[place] for place in chosen])
    for place, ids in zip(chosen, again, strict=True):
        if not np.array_equal(encoded[place], ids):
            raise _UnequalIdsError(f"{FAST_ENCODER} has other ids for document {first + place}")
    return len(chosen)


def _chunks(texts: list[str]) -> Iterator[list[str]]:
    """Yield the texts in order, each chunk one text or at most ``BATCH_CHARS``."""
    chunk: list[str] = []
    num_chars = 0
    for text in texts:
        if chunk and num_chars + len(text) > BATCH_CHARS:
            yield chunk
            chunk, num_chars = [], 0
        chunk.append(text)
        num_chars += len(text)
    if chunk:
        yield chunk


def _doc_identities(batch: pa.RecordBatch, *, files: Sequence[str], where: Path) -> Int64Array:
    names = batch["file"].dictionary_encode()
    unknown = set(names.dictionary.to_pylist()) - set(files)
    if unknown or names.null_count:
        raise ArtifactError(
            "a table holds rows of another file",
            expected=", ".join(files),
            found=", ".join(sorted(map(str, unknown))) or "NULL",
            where=where,
            fix="give the part that belongs to this file",
        )
    index_of = np.array([files.index(name) for name in names.dictionary.to_pylist()])
    return doc_identities(index_of[names.indices.to_numpy()], batch["row"].to_numpy())


def _map_ids(path: Path) -> UInt16Array:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype=np.uint16)
    return np.memmap(path, dtype=np.uint16, mode="r")


def _open_table(path: Path) -> pq.ParquetFile:
    try:
        table = pq.ParquetFile(path, buffer_size=READ_BUFFER_BYTES)
    except (OSError, pa.ArrowException) as exc:
        raise _unreadable(path, found=exc) from exc
    names = table.schema_arrow.names
    if not {"text", "file", "row"} <= set(names):
        raise _unreadable(path, found=f"columns {', '.join(names)}")
    return table


def _file_names(table: pq.ParquetFile) -> tuple[str, ...]:
    names: set[str] = set()
    for batch in table.iter_batches(columns=["file"]):
        names.update(batch["file"].unique().to_pylist())
    return tuple(sorted(names))


def _require_no_null(batch: pa.RecordBatch, *, where: Path) -> None:
    if batch["text"].null_count:
        rows = batch["row"].filter(batch["text"].is_null())
        raise SourceRecordError(
            "a document has no text",
            expected="a string in column text",
            found="NULL",
            where=f"{where}, row {rows[0]}",
            fix="run filter_documents again: it keeps no such row",
        )


def _unreadable(path: Path, *, found: object) -> ArtifactError:
    return ArtifactError(
        "a table of documents cannot be read",
        expected="a Parquet file with columns text, file and row",
        found=found,
        where=path,
        fix="delete the artifact and let its stage run again",
    )
