"""Text to ids: one table of documents becomes one token shard, in the order of its rows.

Reads ``part.parquet`` or ``validation.parquet`` (columns ``text``, ``file``, ``row``) in small
batches and writes ``tokens.arrow``. A document is ``<|endoftext|>`` followed by the ids of its
text: the token marks a beginning, and with it the end of what came before. Ids are collected in a
flat file beside the shard, so that memory holds one batch, however large the table.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import ArtifactError, SourceRecordError
from model.shards import Int64Array, ShardHeader, UInt16Array, doc_identities, write_shard
from model.tokenizer import Tokenizer

TOKENS_FILE: Final = "tokens.arrow"
BATCH_DOCS: Final = 256
BATCH_CHARS: Final = 2**21  # an encoding in memory takes some hundred bytes per token
READ_BUFFER_BYTES: Final = 2**20


@dataclass(frozen=True)
class EncodeCounts:
    """What was encoded, and to how much."""

    num_docs: int
    num_tokens: int
    num_bytes: int


def encode_file(
    part: Path, *, tokenizer_directory: Path, file: str, split: str, destination: Path
) -> EncodeCounts:
    """Encode every document of a table into ``destination/tokens.arrow``.

    Args:
        file: the source file all rows are of; "" takes the names found in the table, sorted.
        split: which split the documents belong to, for the shard's header.
        destination: directory that takes the shard; made if missing.

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
    with flat_path.open("wb") as sink:
        columns = _encode_rows(table, tokenizer=tokenizer, files=files, sink=sink, where=part)
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
        num_docs=len(lengths), num_tokens=int(lengths.sum()), num_bytes=columns.num_bytes
    )


@dataclass
class _Columns:
    """Identity and length of every document so far: 16 bytes each."""

    docs: array[int]
    lengths: array[int]
    num_bytes: int = 0


def _encode_rows(
    table: pq.ParquetFile,
    *,
    tokenizer: Tokenizer,
    files: Sequence[str],
    sink: BinaryIO,
    where: Path,
) -> _Columns:
    columns = _Columns(docs=array("q"), lengths=array("q"))
    for batch in table.iter_batches(batch_size=BATCH_DOCS, columns=["text", "file", "row"]):
        _require_no_null(batch, where=where)
        columns.docs.frombytes(_doc_identities(batch, files=files, where=where).tobytes())
        for texts in _chunks(batch["text"].to_pylist()):
            columns.num_bytes += sum(len(text.encode()) for text in texts)
            ids = array("H")
            for encoded in tokenizer.encode_batch(texts):
                ids.append(tokenizer.end_of_text_id)
                ids.fromlist(encoded)
                columns.lengths.append(len(encoded) + 1)
            sink.write(ids)
    return columns


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
    strangers = set(names.dictionary.to_pylist()) - set(files)
    if strangers or names.null_count:
        raise ArtifactError(
            "a table holds rows of another file",
            expected=", ".join(files),
            found=", ".join(sorted(map(str, strangers))) or "NULL",
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
