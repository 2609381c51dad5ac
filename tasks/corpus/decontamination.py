"""Find training documents that contain text of an evaluation set, word for word.

A document is contaminated if it shares a run of ``ngram_words`` words with an item of a set. Words
are those of ``shingles``: case and punctuation make no difference. ``evalsets.sets`` defines the
texts of an item.

``ngrams.npy`` holds the sorted hashes of the items' n-grams, one row for each set that an n-gram is
in; ``items.npy`` the set and the item of each row, by number; ``sets.json`` the names of the sets.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from model.core.errors import ConfigError
from model.core.outputs import Counts, Facts
from tasks.config.corpus import DecontaminationConfig
from tasks.corpus.evalsets.sets import EvaluationFile, read_item_texts
from tasks.corpus.shingles import Hashes, Ragged, batches, shingle_hashes, word_hashes
from tasks.corpus.sources.fineweb_schema import DOCUMENT_FIELDS
from tasks.corpus.sources.raw_file import read_batches

NGRAMS_NAME = "ngrams.npy"
ITEMS_NAME = "items.npy"
SETS_NAME = "sets.json"
CONTAMINATED_NAME = "contaminated.parquet"
CONTAMINATED_SCHEMA = pa.schema(
    [
        *DOCUMENT_FIELDS,
        ("evaluation_set", pa.string()),
        ("item", pa.int64()),
        ("num_ngrams", pa.int64()),
    ]
)

FILTER_BITS = 24  # one byte each: rules out most n-grams of ordinary text by one lookup
READ_ROWS = 1_024

Owners = npt.NDArray[np.int64]  # [rows, 2]: the number of a set, and of an item in it


class NgramFacts(Facts):
    """Items of each set, distinct n-grams of all sets, and the columns that were read of each."""

    num_items: dict[str, int]
    num_ngrams: int
    columns: dict[str, list[str]]


class ContaminationCounts(Counts):
    """Documents looked at, and those with text of an evaluation set."""

    num_in: int
    num_contaminated: int


class ContaminationFacts(Facts):
    """Documents by evaluation set; one that overlaps several sets counts in each."""

    contamination: dict[str, int]


class Owner(NamedTuple):
    """One item of a set, both by number."""

    evaluation_set: int
    item: int


@dataclass(frozen=True)
class Overlap:
    """N-grams that one document shares with evaluation sets."""

    document: int  # its place among those that were looked up
    num_ngrams: int  # windows of words that occur in some set
    # How many of them occur in each item; a window may count for an item of every set.
    owners: Counter[Owner]


def write_ngrams(
    files: Sequence[EvaluationFile], *, ngram_words: int, destination: Path
) -> NgramFacts:
    """Write the n-grams of all items, each with the first item of each set that contains it.

    Args:
        files: in the order in which sets and their items are numbered.

    Raises:
        SourceError: a file cannot be read or has no text.
        ConfigError: no item has so many words.
    """
    sets = list(dict.fromkeys(file.evaluation_set for file in files))
    num_items = dict.fromkeys(sets, 0)
    columns: dict[str, list[str]] = {name: [] for name in sets}
    hashes: list[Hashes] = [np.empty(0, dtype=np.uint64)]
    owners: list[Owners] = [np.empty((0, 2), dtype=np.int64)]
    for file in files:
        name = file.evaluation_set
        items = read_item_texts(file)
        columns[name] = list(dict.fromkeys([*columns[name], *items.columns]))
        for texts in items.texts:
            found = _long_shingles(word_hashes(texts), size=ngram_words)
            hashes.append(found)
            owner = np.array(Owner(sets.index(name), num_items[name]), dtype=np.int64)
            owners.append(np.tile(owner, (len(found), 1)))
            num_items[name] += 1
    ngrams, items_of = _first_of_each_set(np.concatenate(hashes), np.concatenate(owners))
    if not len(ngrams):
        raise _all_too_short(files, ngram_words, num_items=sum(num_items.values()))
    np.save(destination / NGRAMS_NAME, ngrams)
    np.save(destination / ITEMS_NAME, items_of)
    (destination / SETS_NAME).write_text(json.dumps(sets) + "\n", encoding="utf-8")
    return NgramFacts(num_items=num_items, num_ngrams=len(np.unique(ngrams)), columns=columns)


def _first_of_each_set(ngrams: Hashes, owners: Owners) -> tuple[Hashes, Owners]:
    """Sort n-grams by hash and set, and keep the first item of each set."""
    in_order = np.lexsort((owners[:, 0], ngrams))  # stable, so the first item stays the first
    ngrams, owners = ngrams[in_order], owners[in_order]
    is_first = np.ones(len(ngrams), dtype=np.bool_)
    is_first[1:] = (np.diff(ngrams) != 0) | (np.diff(owners[:, 0]) != 0)
    return ngrams[is_first], owners[is_first]


def _all_too_short(
    files: Sequence[EvaluationFile], ngram_words: int, *, num_items: int
) -> ConfigError:
    return ConfigError(
        "no item of the evaluation sets is long enough to be recognised",
        expected=f"{ngram_words} words in a row (decontamination.ngram_words)",
        found=f"{num_items} items, all shorter",
        where=", ".join(str(file.path) for file in files),
        fix="lower decontamination.ngram_words, or leave these sets out",
    )


class NgramIndex:
    """Index of the n-grams of evaluation sets."""

    def __init__(self, directory: Path) -> None:
        self.ngrams: Hashes = np.load(directory / NGRAMS_NAME)
        self.items: Owners = np.load(directory / ITEMS_NAME)
        self.sets: list[str] = json.loads((directory / SETS_NAME).read_text(encoding="utf-8"))
        self._may_contain = np.zeros(2**FILTER_BITS, dtype=np.bool_)
        self._may_contain[self._bucket(self.ngrams)] = True

    def find(self, shingles: Ragged) -> Iterator[Overlap]:
        """Yield the overlap of each document that shares an n-gram with a set."""
        maybe = np.flatnonzero(self._may_contain[self._bucket(shingles.hashes)])
        first = np.searchsorted(self.ngrams, shingles.hashes[maybe])
        first[first == len(self.ngrams)] = 0
        is_hit = self.ngrams[first] == shingles.hashes[maybe]
        first, hits = first[is_hit], maybe[is_hit]
        last = np.searchsorted(self.ngrams, shingles.hashes[hits], side="right")
        documents = np.searchsorted(shingles.offsets, hits, side="right") - 1
        for document in np.unique(documents).tolist():
            is_its = documents == document
            owners = Counter(
                Owner(*owner)
                for start, end in zip(first[is_its].tolist(), last[is_its].tolist(), strict=True)
                for owner in self.items[start:end].tolist()
            )
            yield Overlap(document, int(is_its.sum()), owners)

    @staticmethod
    def _bucket(hashes: Hashes) -> Hashes:
        return hashes >> np.uint64(64 - FILTER_BITS)


def find_contaminated(
    part: Path, index: NgramIndex, *, config: DecontaminationConfig, destination: Path
) -> tuple[ContaminationCounts, ContaminationFacts]:
    """Write ``contaminated.parquet``: each contaminated document with the item it shares most with.

    Raises:
        SourceError: the filter's ``part`` cannot be read.
    """
    rows: list[dict[str, Any]] = []
    num_in = 0
    num_by_set = Counter[int]()
    columns = ["file", "row", "id", "text"]
    for batch in read_batches(part, columns=columns, batch_rows=READ_ROWS):
        documents = batch.to_pylist()
        num_in += len(documents)
        texts = [document.pop("text") for document in documents]
        for overlap in _overlaps(texts, index, size=config.ngram_words):
            if overlap.num_ngrams < config.min_ngrams:
                continue
            num_by_set.update({owner.evaluation_set for owner in overlap.owners})
            most = min(overlap.owners, key=lambda owner: (-overlap.owners[owner], owner))
            shared = {"evaluation_set": index.sets[most.evaluation_set], "item": most.item}
            document = documents[overlap.document]
            rows.append({**document, **shared, "num_ngrams": overlap.num_ngrams})
    table = pa.Table.from_pylist(rows, schema=CONTAMINATED_SCHEMA)
    pq.write_table(table, destination / CONTAMINATED_NAME, compression="zstd")
    by_name = {name: num_by_set[place] for place, name in enumerate(index.sets)}
    counts = ContaminationCounts(num_in=num_in, num_contaminated=len(rows))
    return counts, ContaminationFacts(contamination=by_name)


def _overlaps(texts: list[str], index: NgramIndex, *, size: int) -> Iterator[Overlap]:
    first = 0
    for some in batches(texts):
        for overlap in index.find(shingle_hashes(word_hashes(some), size=size)):
            yield replace(overlap, document=first + overlap.document)
        first += len(some)


def _long_shingles(words: Ragged, *, size: int) -> Hashes:
    """Return the windows of texts of at least ``size`` words; shorter ones would match anywhere."""
    shingles = shingle_hashes(words, size=size)
    is_long = np.repeat(words.lengths >= size, shingles.lengths)
    return shingles.hashes[is_long]
