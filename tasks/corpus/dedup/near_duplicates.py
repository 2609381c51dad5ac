"""Find near-duplicates: candidates by MinHash bands, decided by the exact Jaccard index.

Documents that agree in a MinHash band form a bucket. ``Selection`` decides: in keep order, each
member of a bucket is compared with the members kept so far, by the Jaccard index of their word
5-grams; it is removed if one reaches ``min_jaccard`` and kept otherwise. So every removed document
points at a kept one that it matches, and a chain of similar documents is not removed as a whole.

Keys are grouped one band at a time; the text of bucket members alone is read, once, and their
shingles are stored in a file. Memory grows with the number of bucket members, not with the corpus.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection

from model.core.outputs import Facts
from tasks.config.corpus import DedupConfig
from tasks.corpus.dedup.signatures import band_column, text_band_keys
from tasks.corpus.duckdb_connection import fetch_one, parquet_path, read_sql, reading
from tasks.corpus.shingles import Hashes, batches, jaccard, shingle_sets

logger = logging.getLogger(__name__)

MAX_KEPT_COMPARED = 32  # of one bucket: template pages that share a band, yet are no duplicates
GIANT_BUCKET = 5_000  # a larger one is logged as a warning
READ_ROWS = 1_024
READ_MEMBERS = 65_536
MATCHES_SCHEMA = pa.schema({"place": pa.int64(), "kept_place": pa.int64(), "jaccard": pa.float64()})

_REMOVED_DOCUMENTS = """
CREATE OR REPLACE TEMP TABLE removed_documents AS
SELECT file_index::BIGINT * 4294967296 + row AS document
FROM read_parquet($signatures, hive_partitioning = false)
SEMI JOIN removed USING (file, row)
"""
_VALIDATION_TEXT = """
SELECT -1 - file_row_number AS document, file, row, id, text
FROM read_parquet($validation, file_row_number = true, hive_partitioning = false)
"""
_CANDIDATE_VALIDATION_TEXT = """
SELECT place, text
FROM validation_rows
JOIN candidates USING (document)
"""
_PART_TEXT = """
SELECT
    candidates.place,
    part.text
FROM read_parquet($part, hive_partitioning = false) AS part
JOIN candidates ON candidates.document = $file_place::BIGINT * 4294967296 + part.row
"""
_ONLY_BUCKETS_OF_VALIDATION = """
DELETE FROM members
WHERE key NOT IN (SELECT key FROM members WHERE document < 0)
"""
_BUCKETS = "SELECT max(size), count(*) FROM (SELECT count(*) AS size FROM members GROUP BY key)"
_MEMBERS_IN_KEEP_ORDER = """
SELECT place, key
FROM members
JOIN candidates USING (document)
ORDER BY place, key
"""


@dataclass(frozen=True)
class SignedFile:
    """One filtered file with its signatures."""

    part: Path
    signatures: Path
    bands: Path


class NearDuplicateSearch(Facts):
    """How much work it was to find near-duplicates."""

    num_candidates: int
    num_compared: int
    num_buckets: int
    largest_bucket: int


def remove_near_duplicates(
    connection: DuckDBPyConnection,
    files: Sequence[SignedFile],
    validation: Path,
    *,
    config: DedupConfig,
    spill_directory: Path,
) -> NearDuplicateSearch:
    """Add near-duplicates to the table ``removed`` of a connection.

    Documents already in the table are not compared; validation rows are always kept. Unless
    ``config.match`` is ``near``, documents are compared with validation rows alone.
    """
    _find_members(connection, files, validation, config=config)
    (num_first,) = fetch_one(connection, "SELECT count(*) FROM candidates WHERE document < 0")
    with TemporaryFile(dir=spill_directory) as file:
        shingles = ShingleFile(file)
        _collect_shingles(connection, files, shingles, size=config.shingle_words)
        selection = Selection(
            shingles,
            min_jaccard=config.min_jaccard,
            num_first=num_first,
            compares_all=config.match == "near",
        )
        selection.run(_members_in_keep_order(connection))
    connection.register("matches", selection.matches())
    connection.execute(read_sql("near_removed"))
    connection.execute(read_sql("copies_of_near"))
    largest, num_buckets = fetch_one(connection, _BUCKETS)
    search = NearDuplicateSearch(
        num_candidates=len(shingles.spans),
        num_compared=selection.num_compared,
        num_buckets=num_buckets,
        largest_bucket=largest or 0,
    )
    _log(search, selection)
    return search


class ShingleFile:
    """The shingle sets of candidates by place, in a memory-mapped file."""

    def __init__(self, file: IO[bytes]) -> None:
        self.spans: dict[int, tuple[int, int]] = {}
        self._file = file
        self._end = 0
        self._hashes: Hashes = np.empty(0, dtype=np.uint64)

    def add(self, place: int, shingles: Hashes) -> None:
        """Append the set of one document."""
        self._file.write(shingles.tobytes())
        self.spans[place] = (self._end, self._end + len(shingles))
        self._end += len(shingles)

    def end_writing(self) -> None:
        """Map the file, so that the sets can be read."""
        self._file.flush()
        if self._end:  # an empty file cannot be mapped
            self._hashes = np.memmap(self._file, dtype=np.uint64, mode="r")

    def size(self, place: int) -> int:
        """Return the number of different shingles of a document."""
        start, end = self.spans[place]
        return end - start

    def __getitem__(self, place: int) -> Hashes:
        start, end = self.spans[place]
        return self._hashes[start:end]


class Selection:
    """Decides in keep order which candidates are near-duplicates of a kept one.

    Args:
        min_jaccard: two documents match from this Jaccard index of their shingles on.
        num_first: the first places, of validation rows, which are always kept.
        compares_all: others are compared with all kept documents, not only with these first ones.
    """

    def __init__(
        self, shingles: ShingleFile, *, min_jaccard: float, num_first: int, compares_all: bool
    ) -> None:
        self.shingles = shingles
        self.min_jaccard = min_jaccard
        self.num_first = num_first
        self.compares_all = compares_all
        self.kept: defaultdict[int, list[int]] = defaultdict(list)  # by bucket, in keep order
        self.full_buckets: set[int] = set()
        self.num_compared = 0
        self.found: list[tuple[int, int, float]] = []  # place, kept place, Jaccard index

    def run(self, members: Iterable[tuple[int, list[int]]]) -> None:
        """Decide on every candidate, given by place and buckets, in keep order."""
        for place, buckets in members:
            is_first = place < self.num_first
            match = None if is_first else self._match(place, buckets)
            if match:
                self.found.append((place, *match))
            elif is_first or self.compares_all:
                self._keep(place, buckets)

    def matches(self) -> pa.Table:
        """Return the place of each near-duplicate, the kept place it matches and their index."""
        names = MATCHES_SCHEMA.names
        rows = [dict(zip(names, match, strict=True)) for match in self.found]
        return pa.Table.from_pylist(rows, schema=MATCHES_SCHEMA)

    def _match(self, place: int, buckets: list[int]) -> tuple[int, float] | None:
        """Return the first kept document of the buckets that is similar enough, and the index."""
        own = self.shingles[place]
        for kept in sorted({kept for bucket in buckets for kept in self.kept.get(bucket, ())}):
            sizes = len(own), self.shingles.size(kept)
            if not min(sizes) or min(sizes) / max(sizes) < self.min_jaccard:
                continue  # too few even if one is a subset; divided as ``jaccard`` does
            self.num_compared += 1
            index = jaccard(own, self.shingles[kept])
            if index >= self.min_jaccard:
                return kept, index
        return None

    def _keep(self, place: int, buckets: list[int]) -> None:
        for bucket in buckets:
            if len(self.kept[bucket]) < MAX_KEPT_COMPARED:
                self.kept[bucket].append(place)
            else:
                self.full_buckets.add(bucket)


def _find_members(
    connection: DuckDBPyConnection,
    files: Sequence[SignedFile],
    validation: Path,
    *,
    config: DedupConfig,
) -> None:
    signatures = [parquet_path(file.signatures) for file in files]
    with reading(*(file.signatures for file in files)):
        connection.execute(_REMOVED_DOCUMENTS, {"signatures": signatures})
    _load_validation(connection, validation, config=config)
    connection.execute("CREATE OR REPLACE TEMP TABLE members (document BIGINT, key UBIGINT)")
    statement, bands = read_sql("near_members"), [parquet_path(file.bands) for file in files]
    with reading(*(file.bands for file in files)):
        for band in range(config.bands):
            connection.execute(statement, {"bands": bands, "column": band_column(band)})
    if config.match != "near":
        connection.execute(_ONLY_BUCKETS_OF_VALIDATION)
    with reading(*(file.signatures for file in files)):
        connection.execute(read_sql("near_candidates"), {"signatures": signatures})


def _load_validation(
    connection: DuckDBPyConnection, validation: Path, *, config: DedupConfig
) -> None:
    with reading(validation):
        rows = connection.sql(
            _VALIDATION_TEXT, params={"validation": parquet_path(validation)}
        ).to_arrow_table()
    no_keys = np.empty((0, config.bands), dtype=np.uint64)
    keys = np.concatenate([no_keys, *text_band_keys(rows["text"].to_pylist(), config)])
    columns = {band_column(band): keys[:, band] for band in range(config.bands)}
    bands = pa.table({"document": rows["document"].combine_chunks(), **columns})
    connection.register("validation_bands", bands)
    connection.register("validation_rows", rows)


def _collect_shingles(
    connection: DuckDBPyConnection,
    files: Sequence[SignedFile],
    shingles: ShingleFile,
    *,
    size: int,
) -> None:
    held_out = connection.sql(_CANDIDATE_VALIDATION_TEXT).to_arrow_reader(READ_ROWS)
    _add_shingles(held_out, shingles, size=size)
    for place, file in enumerate(files):
        with reading(file.part):
            values = {"part": parquet_path(file.part), "file_place": place}
            reader = connection.sql(_PART_TEXT, params=values).to_arrow_reader(READ_ROWS)
            _add_shingles(reader, shingles, size=size)
    shingles.end_writing()


def _add_shingles(reader: pa.RecordBatchReader, shingles: ShingleFile, *, size: int) -> None:
    for rows in reader:
        places = iter(rows["place"].to_pylist())
        for texts in batches(rows["text"].to_pylist()):
            for found in shingle_sets(texts, size=size):
                shingles.add(next(places), found)


def _members_in_keep_order(connection: DuckDBPyConnection) -> Iterator[tuple[int, list[int]]]:
    """Yield place and buckets of each candidate."""
    reader = connection.sql(_MEMBERS_IN_KEEP_ORDER).to_arrow_reader(READ_MEMBERS)
    members = chain.from_iterable(
        zip(batch["place"].to_pylist(), batch["key"].to_pylist(), strict=True) for batch in reader
    )
    for place, group in groupby(members, key=itemgetter(0)):
        yield place, [bucket for _, bucket in group]


def _log(search: NearDuplicateSearch, selection: Selection) -> None:
    logger.info(
        "%d documents in %d buckets of equal bands, the largest of %d; %d pairs compared, %d match",
        search.num_candidates,
        search.num_buckets,
        search.largest_bucket,
        search.num_compared,
        len(selection.found),
    )
    if search.largest_bucket > GIANT_BUCKET or selection.full_buckets:
        logger.warning(
            "the largest bucket has %d documents; in %d buckets more than %d different ones were "
            "kept: later members were compared with those first ones only",
            search.largest_bucket,
            len(selection.full_buckets),
            MAX_KEPT_COMPARED,
        )
