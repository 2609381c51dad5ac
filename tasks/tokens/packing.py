"""Token files to training shards: leave out removed documents, shuffle, cut shards, cut rows.

Reads the ``tokens.arrow`` of every source file and the tables of removals, and writes
``shard-00000.arrow``, … and ``rows.arrow``. Every kept document lands in exactly one shard, whole.
The shuffle is global: all documents are put in the order of ``tasks.tokens.shuffle``, and that
order is cut into shards of about equal size. Memory holds one shard and some forty bytes per
document; token files stay mapped on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import ArtifactError, CorpusError
from model.rows import ROWS_FILE, Segments, write_rows
from model.shards import (
    Int32Array,
    Int64Array,
    Shard,
    ShardHeader,
    UInt16Array,
    doc_identities,
    open_shard,
    shard_name,
    split_identities,
    write_shard,
)
from tasks.tokens.shuffle import document_hashes


@dataclass(frozen=True)
class ShardCounts:
    """What went into the shards; documents in = ``num_docs`` + ``num_removed``."""

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
    shuffle: bool,
    destination: Path,
) -> ShardCounts:
    """Write the training shards and rows of a corpus.

    The bytes depend on the documents, the seed and the sizes, not on the order of ``token_files``.

    Args:
        token_files: one ``tokens.arrow`` per source file.
        removed: tables of (file, row) to leave out; a document may be in several.
        shard_tokens: tokens per shard, about: a document is never cut.
        shuffle: False keeps documents ordered by file name and row.
        destination: directory that takes the files; made if missing.

    Raises:
        ArtifactError: the token files, or the removals, do not belong together.
        CorpusError: the kept documents do not fill one row.
    """
    corpus = _Corpus.open(token_files)
    kept = corpus.kept_documents(removed)
    if shuffle:
        kept = kept[np.argsort(corpus.hashes(kept, seed=seed), kind="stable")]
    num_tokens = int(corpus.lengths[kept].sum(dtype=np.int64))
    _require_one_row(num_tokens, context_tokens=context_tokens, num_docs=len(kept))
    destination.mkdir(parents=True, exist_ok=True)
    header = corpus.header.model_copy(update={"split": split, "seed": seed, "files": corpus.files})
    shard_token_counts: list[int] = []
    for documents in _cut(kept, lengths=corpus.lengths, shard_tokens=shard_tokens):
        tokens = corpus.gather(documents)
        write_shard(
            destination / shard_name(len(shard_token_counts)),
            docs=corpus.docs[documents],
            lengths=corpus.lengths[documents].astype(np.int64),
            tokens=tokens,
            header=header,
        )
        shard_token_counts.append(len(tokens))
    segments = pack_concat(shard_token_counts, context_tokens)
    write_rows(destination / ROWS_FILE, segments, context_tokens=context_tokens)
    return ShardCounts(
        num_shards=len(shard_token_counts),
        num_docs=len(kept),
        num_tokens=num_tokens,
        num_removed=len(corpus.docs) - len(kept),
        num_rows=segments.num_rows,
        num_targets=segments.num_targets,
        num_padding=segments.num_padding(context_tokens),
        files=corpus.files,
    )


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


@dataclass(frozen=True, eq=False)
class _Corpus:
    """All documents of all token files, numbered through as they were given."""

    sources: tuple[Shard, ...]
    source_starts: Int64Array  # number of each source's first document
    files: tuple[str, ...]
    docs: Int64Array  # identity under ``files``, not that of the source
    lengths: Int32Array

    @classmethod
    def open(cls, token_files: Sequence[Path]) -> _Corpus:
        sources = tuple(map(open_shard, token_files))
        _require_same_making(sources)
        names = [name for source in sources for name in source.header.files]
        files = tuple(sorted(set(names)))
        if len(files) != len(names):
            twice = sorted(name for name in files if names.count(name) > 1)
            raise _mismatch("a source file is there twice", found=", ".join(twice))
        corpus = cls(
            sources=sources,
            source_starts=np.cumsum([0, *(source.num_docs for source in sources[:-1])]),
            files=files,
            docs=np.concatenate([_renumbered(source, files=files) for source in sources]),
            lengths=np.concatenate([np.diff(source.offsets) for source in sources]),
        )
        if len(np.unique(corpus.docs)) != len(corpus.docs):
            raise _mismatch("a document is there twice", found="two rows of one file and row")
        return corpus

    @property
    def header(self) -> ShardHeader:
        return self.sources[0].header

    def kept_documents(self, removed: Sequence[Path]) -> Int64Array:
        """Return the numbers of the documents that stay, ordered by file name and row."""
        in_order = np.argsort(self.docs, kind="stable")
        stays = np.ones(len(in_order), dtype=bool)
        for table in removed:
            left_out = _removed_docs(table, files=self.files)
            found = np.isin(self.docs[in_order], left_out)
            if found.sum() != len(left_out):
                raise _mismatch(
                    "removals name documents that the token files do not hold",
                    expected=f"{len(left_out)} removed documents",
                    found=f"{found.sum()} of them among {len(found)} documents",
                    where=table,
                )
            stays &= ~found
        return in_order[stays]

    def hashes(self, documents: Int64Array, *, seed: int) -> np.ndarray:
        file_index, row = split_identities(self.docs[documents])
        return document_hashes(file_index, row, files=self.files, seed=seed)

    def gather(self, documents: Int64Array) -> UInt16Array:
        """Return the tokens of these documents, one after the other.

        They are copied in the order in which they lie on disk, not in that of the shuffle.
        """
        lengths = self.lengths[documents].astype(np.int64)
        targets = np.cumsum(lengths) - lengths
        tokens = np.empty(int(lengths.sum()), dtype=np.uint16)
        on_disk = np.argsort(documents)
        bounds = np.searchsorted(documents[on_disk], [*self.source_starts, len(self.docs)])
        for number, source in enumerate(self.sources):
            mine = on_disk[bounds[number] : bounds[number + 1]]
            starts = source.offsets[documents[mine] - self.source_starts[number]]
            spans = zip(
                starts.tolist(), lengths[mine].tolist(), targets[mine].tolist(), strict=True
            )
            for start, length, target in spans:
                tokens[target : target + length] = source.tokens[start : start + length]
        return tokens


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


def _renumbered(source: Shard, *, files: tuple[str, ...]) -> Int64Array:
    """Return the identities of a source's documents, with file indices into all ``files``."""
    index_of = {name: index for index, name in enumerate(files)}
    indices = np.array([index_of[name] for name in source.header.files], dtype=np.int64)
    file_index, row = split_identities(source.docs)
    return doc_identities(indices[file_index], row)


def _removed_docs(path: Path, *, files: tuple[str, ...]) -> Int64Array:
    """Return the identities of the documents to leave out, each once, in order."""
    try:
        table = pq.read_table(path, columns=["file", "row"], read_dictionary=["file"])
    except (OSError, pa.ArrowException) as exc:
        raise _mismatch("the removals cannot be read", found=exc, where=path) from exc
    table = table.unify_dictionaries().combine_chunks()
    if not table.num_rows:
        return np.empty(0, dtype=np.int64)
    names = table["file"].chunk(0)
    unknown = set(names.dictionary.to_pylist()) - set(files)
    if unknown or names.null_count:
        raise _mismatch(
            "removals name a file without tokens",
            expected=", ".join(files),
            found=", ".join(sorted(unknown)) or "NULL",
            where=path,
        )
    indices = np.array([files.index(name) for name in names.dictionary.to_pylist()])
    file_index = indices[names.indices.to_numpy()]
    return np.unique(doc_identities(file_index, table["row"].to_numpy()))


def _require_same_making(sources: tuple[Shard, ...]) -> None:
    if not sources:
        raise _mismatch("there is no token file", found="an empty list")
    expected = sources[0].header.tokenizer_fingerprint
    for source in sources:
        if source.header.tokenizer_fingerprint != expected:
            raise _mismatch(
                "token files were made by different tokenizers",
                expected=f"{expected} as in {sources[0].path}",
                found=source.header.tokenizer_fingerprint,
                where=source.path,
            )
        if source.loss_mask_bits is not None:
            raise _mismatch(
                "a token file has a loss mask, which text shards would lose",
                expected="columns doc, tokens",
                found="column loss_mask",
                where=source.path,
            )


def _require_one_row(num_tokens: int, *, context_tokens: int, num_docs: int) -> None:
    if num_tokens < context_tokens + 1:
        raise CorpusError(
            "the kept documents do not fill one training row",
            expected=f"at least {context_tokens + 1} tokens, model.context_tokens and one more",
            found=f"{num_tokens} tokens in {num_docs} documents",
            fix="take more source documents, loosen the filters, or lower model.context_tokens",
        )


def _mismatch(
    problem: str, *, found: object, expected: object = None, where: object = None
) -> ArtifactError:
    return ArtifactError(
        problem,
        expected=expected or "token files and removals of one corpus, each file once",
        found=found,
        where=where,
        fix="run the earlier stages again with one tokenizer and one list of files",
    )
