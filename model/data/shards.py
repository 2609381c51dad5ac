"""Token shards on disk, and the training rows of a directory of them.

A **token shard** (``tokens.arrow``, ``shard-00000.arrow``) is an Arrow IPC *stream* file of exactly
one uncompressed record batch, so that it maps into memory without a copy and ``datasets`` reads it:

    doc: int64                 which document: file index * 2**32 + row in that file
    tokens: list<uint16>       its ids, starting with <|endoftext|>
    loss_mask: list<bool>      optional, chat only: the targets of the loss

Schema metadata, each value JSON: format_version, tokenizer_fingerprint, vocab_size, num_docs,
num_tokens, split, seed, files (the names behind the file index).

``model.data.rows`` has the table of training rows, which are slices of shards.

Files are written in place; fsync, renames and manifests belong to the artifact store. Arrow
does not detect flipped bytes, so a reader compares sha256s with ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ValidationError

from model.config.network import LossOn
from model.core.config import Config
from model.core.errors import ArtifactError, ConfigError, TokenizerError
from model.core.files import read_plain_manifest, verify_recorded
from model.data.arrow_ipc import (
    Access,
    foreign_file,
    read_stream,
    to_array,
    to_list_array,
    view_offsets,
    view_values,
    write_stream,
)
from model.data.rows import ROWS_FILE, Int32Array, Int64Array, RowSlices, open_rows
from model.text.tokenizer import END_OF_TEXT, MAX_VOCAB_SIZE, PAD, SPECIAL_TOKENS

BoolArray = npt.NDArray[np.bool_]
UInt8Array = npt.NDArray[np.uint8]
UInt16Array = npt.NDArray[np.uint16]

MAX_SHARD_TOKENS: Final = 2**31 - 1  # offsets of an Arrow list are int32
_FILE_INDEX_SHIFT: Final = 32
PAD_ID: Final = SPECIAL_TOKENS.index(PAD)
END_OF_TEXT_ID: Final = SPECIAL_TOKENS.index(END_OF_TEXT)


def doc_identities(file_index: Int64Array, row: Int64Array) -> Int64Array:
    """Return the value of column ``doc`` for rows of the files with these indices."""
    return (file_index.astype(np.int64) << _FILE_INDEX_SHIFT) + row


def split_identities(docs: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return the file index and the row behind values of column ``doc``."""
    return docs >> _FILE_INDEX_SHIFT, docs & (2**_FILE_INDEX_SHIFT - 1)


class ShardHeader(Config):
    """Metadata that all documents of a shard share."""

    tokenizer_fingerprint: str
    vocab_size: int
    split: str
    seed: int
    files: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Shard:
    """A memory-mapped token shard; every array is a read-only view of the file."""

    path: Path
    header: ShardHeader
    docs: Int64Array
    offsets: Int32Array  # document ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``
    tokens: UInt16Array
    loss_mask_bits: UInt8Array | None  # packed, least significant bit first

    @property
    def num_docs(self) -> int:
        """Return the number of documents."""
        return len(self.docs)

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens over all documents."""
        return len(self.tokens)

    @property
    def loss_mask(self) -> BoolArray | None:
        """Return the whole loss mask unpacked (a copy), or None where the shard has none."""
        if self.loss_mask_bits is None:
            return None
        return self.loss_mask_slice(0, self.num_tokens)

    def loss_mask_slice(self, start: int, stop: int) -> BoolArray:
        """Return the loss mask of ``tokens[start:stop]``."""
        if self.loss_mask_bits is None:
            raise ConfigError(
                "the shards have no loss mask",
                expected="a column loss_mask, as chat shards have",
                found="columns doc, tokens",
                where=self.path,
                fix="set train.loss_on=all",
            )
        first_byte = start // 8
        packed = self.loss_mask_bits[first_byte : (stop + 7) // 8]
        bits = np.unpackbits(packed, bitorder="little").view(np.bool_)
        return bits[start - 8 * first_byte : stop - 8 * first_byte]


def write_shard(
    path: Path,
    *,
    docs: Int64Array,
    lengths: Int64Array,
    tokens: UInt16Array,
    header: ShardHeader,
    loss_mask: BoolArray | None = None,
) -> None:
    """Write one token shard of documents with identities ``docs`` and ``lengths`` in tokens.

    Args:
        tokens: all documents, concatenated; may be a memory map, which is not copied.
    """
    _require_num_tokens_fits(len(tokens), where=path)
    num_masked = len(tokens) if loss_mask is None else len(loss_mask)
    assert len(docs) == len(lengths), "one length per document"
    assert int(lengths.sum()) == len(tokens) == num_masked, "lengths must add up to the tokens"
    _require_ids_fit(tokens, header=header, where=path)
    offsets = np.zeros(len(docs) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    columns = {
        "doc": to_array(pa.int64(), docs),
        "tokens": to_list_array(offsets, to_array(pa.uint16(), tokens)),
    }
    if loss_mask is not None:
        packed = np.packbits(loss_mask, bitorder="little")
        bits = pa.Array.from_buffers(pa.bool_(), len(loss_mask), [None, pa.py_buffer(packed)])
        columns["loss_mask"] = to_list_array(offsets, bits)
    counts = {"num_docs": len(docs), "num_tokens": len(tokens)}
    write_stream(path, columns, metadata=header.model_dump(mode="json") | counts)


def shard_name(number: int) -> str:
    """Return the file name of a directory's shard of this number."""
    return f"shard-{number:05d}.arrow"


def open_shard(path: Path, *, access: Access = "any") -> Shard:
    """Map a token shard into memory.

    Args:
        access: ``random`` where rows are read in a shuffled order.
    """
    batch, metadata = read_stream(path, access=access)
    header_fields = {name: metadata.get(name) for name in ShardHeader.model_fields}
    try:
        header = ShardHeader.model_validate(header_fields)
        shard = Shard(
            path=path,
            header=header,
            docs=view_values(batch["doc"], pa.int64()),
            offsets=view_offsets(batch["tokens"], item_type=pa.uint16()),
            tokens=view_values(batch["tokens"].values, pa.uint16()),
            loss_mask_bits=_loss_mask_view(batch),
        )
    except (KeyError, TypeError, ValidationError, AttributeError) as exc:
        raise foreign_file(path, found=exc) from exc
    promised = (metadata.get("num_docs"), metadata.get("num_tokens"))
    if promised != (shard.num_docs, shard.num_tokens) or shard.offsets[-1] != shard.num_tokens:
        raise ArtifactError(
            "a token shard contradicts its header",
            expected=f"{promised[0]} documents, {promised[1]} tokens",
            found=f"{shard.num_docs} documents, {shard.num_tokens} tokens",
            where=path,
            fix="delete the artifact and let its stage run again",
        )
    return shard


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Training rows, padded to one length.

    Shape: all ``[n, context + 1]``. ``mask`` is True for targets: never a row's first token, never
    padding, never the first token of a continued document, and only where the loss mask is True if
    ``loss_on`` is ``mask``. ``begins`` is True where a document, a piece of one, or padding begins.
    """

    ids: UInt16Array
    mask: BoolArray
    begins: BoolArray

    @property
    def documents(self) -> Int32Array:
        """Return the index of each token's document, piece of one, or padding in its row."""
        return np.cumsum(self.begins, axis=1, dtype=np.int32) - 1


class ShardSet:
    """The rows of one directory of shards, by number, in any order.

    Shards are mapped and verified when a row of them is first read.

    Args:
        directory: holds ``shard-*.arrow``, ``rows.arrow`` and, when stored, ``manifest.json``.
        context_tokens: tokens per row, less one; must be that of the rows.
        verify: compare each file's sha256 with the manifest, if there is one.
        loss_on: ``mask`` restricts targets to the shards' loss mask.
    """

    def __init__(
        self,
        directory: Path,
        *,
        context_tokens: int,
        verify: bool = True,
        loss_on: LossOn = "all",
    ) -> None:
        self.directory = directory
        self.context_tokens = context_tokens
        self.loss_on = loss_on
        self._manifest = read_plain_manifest(directory)
        self._verify = verify
        self._verify_recorded(ROWS_FILE)
        self._segments = open_rows(directory / ROWS_FILE, context_tokens=context_tokens)
        self._paths = sorted(directory.glob("shard-*.arrow"))
        self._shards: dict[int, Shard] = {}
        self._require_shards_present()
        first = open_shard(self._paths[0]).header
        self.tokenizer_fingerprint = first.tokenizer_fingerprint
        self.vocab_size = first.vocab_size

    @property
    def num_rows(self) -> int:
        """Return the number of rows."""
        return self._segments.num_rows

    @property
    def num_targets(self) -> int:
        """Return the targets over all rows, before any loss mask."""
        return self._segments.num_targets

    @cached_property
    def fingerprint(self) -> str:
        """Return the identity of rows and tokens: the manifest's digest, else one of headers."""
        if self._manifest is not None and "content_digest" in self._manifest:
            return str(self._manifest["content_digest"])
        headers = [
            (shard.header.model_dump(mode="json"), shard.num_docs, shard.num_tokens)
            for shard in map(open_shard, self._paths)
        ]
        identity = json.dumps([headers, self.context_tokens, self.num_rows, self.num_targets])
        return hashlib.sha256(identity.encode()).hexdigest()

    def rows(self, indices: Sequence[int] | Int64Array) -> RowBlock:
        """Return the rows of these numbers, in this order."""
        rows = np.asarray(indices, dtype=np.int64)
        missing = rows[(rows < 0) | (rows >= self.num_rows)]
        if len(missing):
            raise IndexError(f"row {missing[0]} of {self.num_rows} in {self.directory}")
        width = self.context_tokens + 1
        slices = self._segments.slices(rows, width=width)
        ids = np.full((len(rows), width), PAD_ID, dtype=np.uint16)
        self._copy(slices, ids)
        mask = np.arange(width) < slices.row_lengths[:, None]
        begins = (ids == END_OF_TEXT_ID) & mask
        inner = slices.place[slices.is_inner]
        mask.reshape(-1)[inner] = begins.reshape(-1)[inner]
        mask[:, 0] = False
        begins.reshape(-1)[slices.place] = True
        is_padded = slices.row_lengths < width
        begins[is_padded, slices.row_lengths[is_padded]] = True
        if self.loss_on == "mask":
            self._apply_loss_mask(slices, mask)
        return RowBlock(ids=ids, mask=mask, begins=begins)

    def _copy(self, slices: RowSlices, ids: UInt16Array) -> None:
        """Copy tokens slice by slice, which is faster than a gather by index (measured)."""
        tokens = {number: self._shard(number).tokens for number in set(slices.shard.tolist())}
        flat = ids.reshape(-1)
        for number, start, length, place in slices:
            flat[place : place + length] = tokens[number][start : start + length]

    def _apply_loss_mask(self, slices: RowSlices, mask: BoolArray) -> None:
        flat = mask.reshape(-1)
        for number, start, length, place in slices:
            in_loss = self._shard(number).loss_mask_slice(start, start + length)
            flat[place : place + length] &= in_loss

    def _verify_recorded(self, name: str) -> None:
        if self._verify and self._manifest is not None:
            verify_recorded(self.directory / name, self._manifest)

    def _shard(self, number: int) -> Shard:
        if number not in self._shards:
            path = self._paths[number]
            self._verify_recorded(path.name)
            shard = open_shard(path, access="random")
            self._require_same_tokenizer(shard)
            self._shards[number] = shard
        return self._shards[number]

    def _require_shards_present(self) -> None:
        needed = int(self._segments.shard.max(initial=0)) + 1
        names = [shard_name(number) for number in range(max(needed, len(self._paths)))]
        if [path.name for path in self._paths] != names:
            raise ArtifactError(
                "shards that the rows refer to are missing",
                expected=f"{needed} shards, shard-00000.arrow to {names[-1]}",
                found=f"{len(self._paths)}: {', '.join(path.name for path in self._paths[:8])}",
                where=self.directory,
                fix="delete the artifact and let write_shards run again",
            )

    def _require_same_tokenizer(self, shard: Shard) -> None:
        if shard.header.tokenizer_fingerprint != self.tokenizer_fingerprint:
            raise ArtifactError(
                "the shards of one set were made by different tokenizers",
                expected=self.tokenizer_fingerprint,
                found=shard.header.tokenizer_fingerprint,
                where=shard.path,
                fix="delete the artifact and let write_shards run again",
            )


def _loss_mask_view(batch: pa.RecordBatch) -> UInt8Array | None:
    if "loss_mask" not in batch.schema.names:
        return None
    column = batch["loss_mask"]
    if column.type != pa.list_(pa.bool_()):
        raise TypeError(f"a column of {column.type} instead of {pa.list_(pa.bool_())}")
    return np.frombuffer(column.values.buffers()[1], dtype=np.uint8)


def _require_ids_fit(tokens: UInt16Array, *, header: ShardHeader, where: Path) -> None:
    largest = int(tokens.max(initial=0))
    smallest = int(tokens.min(initial=0))
    if header.vocab_size > MAX_VOCAB_SIZE or smallest < 0 or largest >= header.vocab_size:
        raise TokenizerError(
            "token ids do not fit a shard",
            expected=f"0 <= id < {header.vocab_size}, the vocabulary, and that at most "
            f"{MAX_VOCAB_SIZE}: ids are stored as uint16",
            found=f"ids from {smallest} to {largest}",
            where=where,
            fix="encode with the tokenizer the header names; keep vocab_size within uint16",
        )


def _require_num_tokens_fits(num_tokens: int, *, where: Path) -> None:
    if num_tokens > MAX_SHARD_TOKENS:
        raise ArtifactError(
            "too many tokens for one shard",
            expected=f"at most {MAX_SHARD_TOKENS}: Arrow's list offsets are int32",
            found=num_tokens,
            where=where,
            fix="split the source file, or lower shards.shard_tokens",
        )
