"""Token files to training shards: removed documents dropped, shuffled, cut into shards, packed.

Reads the ``tokens.arrow`` of every source file and the tables of removals, and writes
``shard-00000.arrow``, … and ``rows.arrow``. Every kept document is in exactly one shard, whole.

The shuffle is global: all documents are sorted by a seeded hash of their file's name and row, and
cut into shards of about equal size. So neither the order in which files are given, nor workers, nor
other documents change the order of any two. Memory holds one shard and about a hundred bytes per
document; token files stay mapped on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

from model.core.errors import CorpusError
from model.data.rows import ROWS_FILE, Segments, write_rows
from model.data.shards import (
    Int32Array,
    Int64Array,
    ShardHeader,
    shard_name,
    split_identities,
    write_shard,
)
from tasks.config.corpus import Packing
from tasks.tokens.packing import pack_best_fit, pack_concat
from tasks.tokens.token_files import TokenCorpus

SHUFFLE_ALGORITHM: Final = "splitmix64(xxh64(file, seed), row)"  # for cache keys

_GOLDEN_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class ShardCounts:
    """Counts of what was written; documents in = ``num_docs`` + ``num_removed``."""

    num_shards: int
    num_docs: int
    num_tokens: int
    num_removed: int
    num_rows: int
    num_targets: int
    num_padding: int
    files: tuple[str, ...]


def write_shards(
    token_files: Sequence[Path],
    removed: Sequence[Path],
    *,
    split: str,
    seed: int,
    shard_tokens: int,
    context_tokens: int,
    packing: Packing,
    shuffle: bool,
    destination: Path,
) -> ShardCounts:
    """Write the training shards and rows of a corpus.

    The bytes depend on the documents, the seed and the sizes, not on the order of ``token_files``.

    Args:
        token_files: one ``tokens.arrow`` per source file.
        removed: tables of (file, row) to drop; a document may be in several.
        shard_tokens: tokens per shard, about: a document is never cut.
        packing: how rows are cut, see ``tasks.tokens.packing``.
        shuffle: False keeps documents ordered by file name and row.
        destination: directory that takes the files; made if missing.

    Raises:
        ArtifactError: the token files, or the removals, do not belong together.
        CorpusError: the kept documents do not fill one row.
    """
    corpus = TokenCorpus.open(token_files)
    kept = corpus.kept_documents(removed)
    if shuffle:
        file_index, row = split_identities(corpus.docs[kept])
        hashes = document_hashes(file_index, row, files=corpus.files, seed=seed)
        kept = kept[np.argsort(hashes, kind="stable")]
    num_tokens = int(corpus.lengths[kept].sum(dtype=np.int64))
    _require_one_row(num_tokens, context_tokens=context_tokens, num_docs=len(kept))
    destination.mkdir(parents=True, exist_ok=True)
    header = corpus.header.model_copy(update={"split": split, "seed": seed, "files": corpus.files})
    shard_lengths: list[Int32Array] = []
    for documents in _cut(kept, lengths=corpus.lengths, shard_tokens=shard_tokens):
        shard = destination / shard_name(len(shard_lengths))
        _write_shard(shard, documents, corpus=corpus, header=header)
        shard_lengths.append(corpus.lengths[documents])
    segments = _pack(shard_lengths, context_tokens, packing=packing)
    write_rows(destination / ROWS_FILE, segments, context_tokens=context_tokens)
    return ShardCounts(
        num_shards=len(shard_lengths),
        num_docs=len(kept),
        num_tokens=num_tokens,
        num_removed=len(corpus.docs) - len(kept),
        num_rows=segments.num_rows,
        num_targets=segments.num_targets,
        num_padding=segments.num_padding(context_tokens),
        files=corpus.files,
    )


def _write_shard(
    path: Path, documents: Int64Array, *, corpus: TokenCorpus, header: ShardHeader
) -> None:
    write_shard(
        path,
        docs=corpus.docs[documents],
        lengths=corpus.lengths[documents].astype(np.int64),
        tokens=corpus.gather(documents),
        header=header,
    )


def _pack(
    shard_lengths: Sequence[Int32Array], context_tokens: int, *, packing: Packing
) -> Segments:
    if packing == "best_fit":
        return pack_best_fit(shard_lengths, context_tokens)
    return pack_concat([int(item.sum(dtype=np.int64)) for item in shard_lengths], context_tokens)


def _cut(documents: Int64Array, *, lengths: Int32Array, shard_tokens: int) -> Iterator[Int64Array]:
    """Yield the documents of each shard: equal shares of all tokens, never an empty one."""
    ends = np.cumsum(lengths[documents], dtype=np.int64)
    num_tokens = int(ends[-1])
    num_shards = -(-num_tokens // shard_tokens)
    shares = [num_tokens * number // num_shards for number in range(1, num_shards)]
    cuts = np.unique(np.searchsorted(ends, shares, side="right"))
    for part in np.split(documents, cuts):
        if len(part):
            yield part


def _require_one_row(num_tokens: int, *, context_tokens: int, num_docs: int) -> None:
    if num_tokens < context_tokens + 1:
        raise CorpusError(
            "the kept documents do not fill one training row",
            expected=f"at least {context_tokens + 1} tokens, model.context_tokens and one more",
            found=f"{num_tokens} tokens in {num_docs} documents",
            fix="take more source documents, loosen the filters, or lower model.context_tokens",
        )


def document_hashes(
    file_index: npt.NDArray[np.int64],
    row: npt.NDArray[np.int64],
    *,
    files: Sequence[str],
    seed: int,
) -> npt.NDArray[np.uint64]:
    """Return one well-mixed hash per document.

    The hash of row ``r`` is output ``r`` of the generator SplitMix64 started at the xxh64 of the
    file's name under ``seed``.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", with the
    mixing constants of Vigna's splitmix64.c.

    Args:
        file_index: position in ``files`` of each document's file.
        row: row of each document in its file.
    """
    starts = [xxhash.xxh64_intdigest(name.encode(), seed=seed) for name in files]
    return splitmix64(np.array(starts, dtype=np.uint64)[file_index], row.astype(np.uint64))


def splitmix64(
    start: npt.NDArray[np.uint64], index: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Return output number ``index`` (from 0) of the SplitMix64 generators with these starts."""
    state = start + (index + np.uint64(1)) * _GOLDEN_GAMMA
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))
