"""The documents of all ``tokens.arrow`` of a corpus as one numbered set, without removed ones.

Token files stay mapped; memory holds an identity and a length per document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.core.errors import ArtifactError
from model.data.shards import (
    Int32Array,
    Int64Array,
    Shard,
    ShardHeader,
    UInt16Array,
    doc_identities,
    open_shard,
    split_identities,
)


@dataclass(frozen=True, eq=False)
class TokenCorpus:
    """All documents of all token files, numbered in the order of the files."""

    sources: tuple[Shard, ...]
    source_starts: Int64Array  # number of each source's first document
    files: tuple[str, ...]
    docs: Int64Array  # identity under ``files``, not that of the source
    lengths: Int32Array

    @classmethod
    def open(cls, token_files: Sequence[Path]) -> TokenCorpus:
        """Map the token files.

        Raises:
            ArtifactError: they do not belong together.
        """
        sources = tuple(map(open_shard, token_files))
        _require_one_tokenizer(sources)
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
        """Header that the token files share."""
        return self.sources[0].header

    def kept_documents(self, removed: Sequence[Path]) -> Int64Array:
        """Return the numbers of the documents that are kept, ordered by file name and row.

        Raises:
            ArtifactError: a table of removals belongs to another corpus.
        """
        in_order = np.argsort(self.docs, kind="stable")
        is_kept = np.ones(len(in_order), dtype=bool)
        for table in removed:
            dropped = _removed_docs(table, files=self.files)
            found = np.isin(self.docs[in_order], dropped)
            if found.sum() != len(dropped):
                raise _mismatch(
                    "removals name documents that the token files do not hold",
                    expected=f"{len(dropped)} removed documents",
                    found=f"{found.sum()} of them among {len(found)} documents",
                    where=table,
                )
            is_kept &= ~found
        return in_order[is_kept]

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


def _renumbered(source: Shard, *, files: tuple[str, ...]) -> Int64Array:
    """Return the identities of a source's documents, with file indices into all ``files``."""
    index_of = {name: index for index, name in enumerate(files)}
    indices = np.array([index_of[name] for name in source.header.files], dtype=np.int64)
    file_index, row = split_identities(source.docs)
    return doc_identities(indices[file_index], row)


def _removed_docs(path: Path, *, files: tuple[str, ...]) -> Int64Array:
    """Return the sorted identities of the documents to drop, each once."""
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


def _require_one_tokenizer(sources: tuple[Shard, ...]) -> None:
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
                "a token file has a loss mask, which text shards would not keep",
                expected="columns doc, tokens",
                found="column loss_mask",
                where=source.path,
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
