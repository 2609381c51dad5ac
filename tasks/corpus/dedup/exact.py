"""Find documents with the same text, or the same words: only their keys are looked at.

What the keys mean is written in ``sql/normalise.sql`` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from duckdb import DuckDBPyConnection

from tasks.corpus.duckdb_connection import parquet_path, read_sql, reading


def remove_copies_of_validation(
    connection: DuckDBPyConnection, signature_files: Sequence[Path], validation: Path
) -> None:
    """Make the table ``removed``: documents whose text or words a validation row has.

    Raises:
        SourceError: one of the files cannot be read.
    """
    with reading(validation):
        connection.execute(read_sql("validation_keys"), {"validation": parquet_path(validation)})
    with reading(*signature_files):
        signatures = [parquet_path(path) for path in signature_files]
        connection.execute(read_sql("validation_copies"), {"signatures": signatures})


def remove_copies(
    connection: DuckDBPyConnection, signature_files: Sequence[Path], *, match: str
) -> None:
    """Add to the table ``removed`` all copies of a text but the first in keep order.

    Args:
        match: whose keys count, ``exact`` or ``normalised``.

    Raises:
        SourceError: one of the files cannot be read.
    """
    with reading(*signature_files):
        signatures = [parquet_path(path) for path in signature_files]
        connection.execute(read_sql("copies"), {"signatures": signatures, "match": match})
    connection.execute(read_sql("removed_copies"))
