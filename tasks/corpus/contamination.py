"""Training documents that hold text of an evaluation set, word for word.

A document is contaminated if it shares a run of so many words with an item of a set. Words are
those of ``shingles``: case and punctuation make no difference. An item's texts are each of its
strings, and its first string followed by each other one, so that a question together with one of
its answers is found as well.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import ConfigError, SourceError
from tasks.config import DecontaminationConfig
from tasks.corpus.shingles import Hashes, Ragged, batches, shingle_hashes, word_hashes

NGRAMS_NAME = "ngrams.npy"
ITEMS_NAME = "items.npy"
SETS_NAME = "sets.json"
CONTAMINATED_NAME = "contaminated.parquet"
CONTAMINATED_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("id", pa.string()),
        ("evaluation_set", pa.string()),
        ("item", pa.int64()),
        ("num_ngrams", pa.int64()),
    ]
)
FILTER_BITS = 24  # one byte each: most n-grams of ordinary text are ruled out by one look
READ_ROWS = 1_024
_NONE: Hashes = np.empty(0, dtype=np.uint64)


@dataclass(frozen=True)
class EvaluationFile:
    """One parquet file of an evaluation set."""

    evaluation_set: str
    path: Path


@dataclass(frozen=True)
class NgramCounts:
    """What the index of n-grams holds; ``num_items`` counts rows per set."""

    num_items: dict[str, int]
    num_ngrams: int


@dataclass(frozen=True)
class ContaminationCounts:
    """What one file of documents shares with evaluation sets.

    Args:
        num_by_set: documents per set; one that meets several sets counts in each.
    """

    num_in: int
    num_contaminated: int
    num_by_set: dict[str, int]


def write_ngrams(
    files: Sequence[EvaluationFile], *, config: DecontaminationConfig, destination: Path
) -> NgramCounts:
    """Write the n-grams of all items: which are sorted, and which item each is of.

    Args:
        files: in the order in which sets and their items are numbered.
        destination: an existing directory.

    Raises:
        SourceError: a file cannot be read or holds no text.
        ConfigError: no item has so many words.
    """
    sets = list(dict.fromkeys(file.evaluation_set for file in files))
    num_items = dict.fromkeys(sets, 0)
    hashes: list[Hashes] = []
    owners: list[npt.NDArray[np.int64]] = []  # set and item of each n-gram
    for file in files:
        for texts in _items(file):
            found = _long_shingles(word_hashes(texts), size=config.ngram_words)
            hashes.append(found)
            owner = (sets.index(file.evaluation_set), num_items[file.evaluation_set])
            owners.append(np.tile(np.array(owner, dtype=np.int64), (len(found), 1)))
            num_items[file.evaluation_set] += 1
    ngrams, first = np.unique(np.concatenate([*hashes, _NONE]), return_index=True)
    if not len(ngrams):
        raise ConfigError(
            "no item of the evaluation sets is long enough to be recognised",
            expected=f"{config.ngram_words} words in a row (decontamination.ngram_words)",
            found=f"{sum(num_items.values())} items, all shorter",
            where=", ".join(str(file.path) for file in files),
            fix="lower decontamination.ngram_words, or leave these sets out",
        )
    np.save(destination / NGRAMS_NAME, ngrams)
    np.save(destination / ITEMS_NAME, np.concatenate(owners)[first])
    (destination / SETS_NAME).write_text(json.dumps(sets) + "\n", encoding="utf-8")
    return NgramCounts(num_items=num_items, num_ngrams=len(ngrams))


class NgramIndex:
    """The n-grams of evaluation sets, to be looked up."""

    def __init__(self, directory: Path) -> None:
        self.ngrams: Hashes = np.load(directory / NGRAMS_NAME)
        self.items: npt.NDArray[np.int64] = np.load(directory / ITEMS_NAME)
        self.sets: list[str] = json.loads((directory / SETS_NAME).read_text(encoding="utf-8"))
        self._may_hold = np.zeros(2**FILTER_BITS, dtype=np.bool_)
        self._may_hold[self._bucket(self.ngrams)] = True

    def find(self, shingles: Ragged) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Yield the index of each document that holds n-grams, with the set and item of each."""
        maybe = np.flatnonzero(self._may_hold[self._bucket(shingles.hashes)])
        places = np.searchsorted(self.ngrams, shingles.hashes[maybe])
        places[places == len(self.ngrams)] = 0
        is_hit = self.ngrams[places] == shingles.hashes[maybe]
        documents = np.searchsorted(shingles.offsets, maybe[is_hit], side="right") - 1
        owners = self.items[places[is_hit]]
        for document in np.unique(documents).tolist():
            hits = owners[documents == document].tolist()
            yield document, [(set_index, item) for set_index, item in hits]

    @staticmethod
    def _bucket(hashes: Hashes) -> Hashes:
        return hashes >> np.uint64(64 - FILTER_BITS)


def find_contaminated(
    part: Path, index: NgramIndex, *, config: DecontaminationConfig, destination: Path
) -> ContaminationCounts:
    """Write ``contaminated.parquet``: each contaminated document with the item it shares most with.

    Args:
        part: ``part.parquet`` of the filter.
        destination: an existing directory.
    """
    rows: list[dict[str, Any]] = []
    num_in = 0
    num_by_set = Counter[int]()
    for batch in pq.ParquetFile(part).iter_batches(
        READ_ROWS, columns=["file", "row", "id", "text"]
    ):
        documents = batch.to_pylist()
        num_in += len(documents)
        texts = [document.pop("text") for document in documents]
        for place, hits in _find(texts, index, size=config.ngram_words):
            if len(hits) < config.min_ngrams:
                continue
            num_by_set.update({set_index for set_index, _ in hits})
            (owner, _), *_ = sorted(Counter(hits).items(), key=lambda item: (-item[1], item[0]))
            shared = {"evaluation_set": index.sets[owner[0]], "item": owner[1]}
            rows.append({**documents[place], **shared, "num_ngrams": len(hits)})
    table = pa.Table.from_pylist(rows, schema=CONTAMINATED_SCHEMA)
    pq.write_table(table, destination / CONTAMINATED_NAME, compression="zstd")
    by_name = {name: num_by_set[place] for place, name in enumerate(index.sets)}
    return ContaminationCounts(num_in=num_in, num_contaminated=len(rows), num_by_set=by_name)


def _find(
    texts: list[str], index: NgramIndex, *, size: int
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    first = 0
    for some in batches(texts):
        for place, hits in index.find(shingle_hashes(word_hashes(some), size=size)):
            yield first + place, hits
        first += len(some)


def _long_shingles(words: Ragged, *, size: int) -> Hashes:
    """Return the windows of texts that have so many words; shorter texts would match anywhere."""
    shingles = shingle_hashes(words, size=size)
    is_long = np.repeat(words.lengths >= size, shingles.lengths)
    return shingles.hashes[is_long]


def _items(file: EvaluationFile) -> Iterator[list[str]]:
    """Yield the texts of each item."""
    try:
        table = pq.read_table(file.path)
    except (OSError, pa.ArrowException) as exc:
        raise _unusable(file, found=exc) from exc
    is_text = [_is_text(field.type) for field in table.schema]
    if not any(is_text):
        raise _unusable(file, found=f"columns {', '.join(table.schema.names)}")
    columns = [column for column, useful in zip(table.columns, is_text, strict=True) if useful]
    for values in zip(*(column.to_pylist() for column in columns), strict=True):
        strings = [string for value in values for string in _strings(value)]
        yield [*strings, *(f"{strings[0]} {other}" for other in strings[1:])]


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _strings(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [part for part in value if part]


def _unusable(file: EvaluationFile, *, found: object) -> SourceError:
    return SourceError(
        f"evaluation set {file.evaluation_set} cannot be read",
        expected="a parquet file with columns of strings, or of lists of strings",
        found=found,
        where=file.path,
        fix="correct decontamination.sets",
    )
