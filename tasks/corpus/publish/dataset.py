"""Write the clean text of a corpus as a data set folder in the layout of the Hugging Face Hub.

    README.md                                the card: source, settings, funnel, licence
    data/train-00000-of-00003.parquet        kept documents of one source file, FineWeb's columns
    data/validation-00000-of-00001.parquet   held-out documents

Rows keep their order, so the same corpus gives the same bytes. A file appears under its name only
when it is complete, so an interrupted attempt resumes with the files it lacks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.core.errors import CorpusError, SourceError
from model.core.outputs import Facts
from tasks.config.corpus import PersonalDataConfig
from tasks.config.run import CardConfig
from tasks.corpus.filters.personal_data import edit_personal_data
from tasks.corpus.publish.card import DatasetCounts, Provenance, card_text
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA

CARD = "README.md"
BATCH_ROWS = 8192  # and at most so many in a row group, about 25 MB of text


class DatasetFacts(Facts):
    """Files of the data set, relative to its folder."""

    files: list[str]


@dataclass(frozen=True)
class _Output:
    """One file to write: the rows of a part that are not removed."""

    part: Path
    removed: np.ndarray
    num_rows: int
    # Masking to apply to its text; None where the filter has applied it.
    masking: PersonalDataConfig | None = None


def write_dataset(
    parts: Mapping[str, Path],
    removed: Sequence[Path],
    validation: Path,
    *,
    personal_data: PersonalDataConfig,
    provenance: Provenance,
    card: CardConfig,
    destination: Path,
) -> tuple[DatasetCounts, DatasetFacts]:
    """Write a data set folder; a split or a file without a document is left out.

    Args:
        parts: ``part.parquet`` by source file.
        removed: tables of (file, row) to leave out; a document may be in several.
        validation: ``validation.parquet``, raw rows.
        personal_data: masking that the filter applied to the parts; applied here to the validation
            rows, which are not filtered.

    Raises:
        SourceError: a file cannot be read.
        CorpusError: no document is left.
    """
    removed_rows = _removed_rows(removed, parts)
    outputs = [_output(path, removed_rows[file]) for file, path in parts.items()]
    training = [output for output in outputs if output.num_rows]
    if not training:
        raise CorpusError(
            "there is nothing to publish: no document is left",
            found=f"{provenance.num_source:,} documents in the source, all dropped or removed",
            where=", ".join(map(str, removed)),
            fix="loosen the filter, deduplication or the quality model; the corpus report shows "
            "what took most",
        )
    held_out = _output(validation, np.array([], dtype=np.int64), masking=personal_data)
    splits = {"train": training, "validation": [held_out] if held_out.num_rows else []}
    files = [
        _write(output, destination / "data" / f"{split}-{place:05d}-of-{len(outputs):05d}.parquet")
        for split, outputs in splits.items()
        for place, output in enumerate(outputs)
    ]
    counts = DatasetCounts(
        num_docs=sum(output.num_rows for output in training), num_validation=held_out.num_rows
    )
    text = card_text(provenance, counts, card=card)
    (destination / CARD).write_text(text, encoding="utf-8")
    names = [path.relative_to(destination).as_posix() for path in files]
    return counts, DatasetFacts(files=names)


def _removed_rows(removed: Sequence[Path], parts: Mapping[str, Path]) -> dict[str, np.ndarray]:
    tables = []
    for path in removed:
        with _reading(path):
            tables.append(pq.read_table(path, columns=["file", "row"]))
    files = np.concatenate([table["file"].to_numpy(zero_copy_only=False) for table in tables])
    rows = np.concatenate([table["row"].to_numpy() for table in tables])
    return {file: np.unique(rows[files == file]) for file in parts}


def _output(
    part: Path, removed: np.ndarray, *, masking: PersonalDataConfig | None = None
) -> _Output:
    with _reading(part), pq.ParquetFile(part) as table:
        num_rows = table.metadata.num_rows
    return _Output(part, removed, num_rows - len(removed), masking)


def _write(output: _Output, path: Path) -> Path:
    if _is_complete(path, output.num_rows):
        logging.getLogger(__name__).info("%s exists already", path.name)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    num_rows = 0
    with pq.ParquetWriter(temporary, FINEWEB_SCHEMA, compression="zstd") as writer:
        for batch in _kept(output):
            writer.write_batch(batch)
            num_rows += batch.num_rows
    assert num_rows == output.num_rows, f"{num_rows} rows of {output.part}, not {output.num_rows}"
    temporary.rename(path)
    return path


def _is_complete(path: Path, num_rows: int) -> bool:
    try:
        with pq.ParquetFile(path) as table:
            return table.metadata.num_rows == num_rows
    except (FileNotFoundError, pa.ArrowInvalid):
        return False


def _kept(output: _Output) -> Iterator[pa.RecordBatch]:
    columns = [*FINEWEB_SCHEMA.names, "row"]
    with _reading(output.part), pq.ParquetFile(output.part) as table:
        for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            is_kept = ~np.isin(batch["row"].to_numpy(), output.removed)
            kept = batch.select(FINEWEB_SCHEMA.names).filter(pa.array(is_kept))
            if kept.num_rows:
                yield _masked(kept.cast(FINEWEB_SCHEMA), output.masking)


def _masked(batch: pa.RecordBatch, config: PersonalDataConfig | None) -> pa.RecordBatch:
    if config is None or config.action != "mask":
        return batch
    place = FINEWEB_SCHEMA.get_field_index("text")
    texts, _ = edit_personal_data(batch.column(place), config)
    return batch.set_column(place, FINEWEB_SCHEMA.field(place), texts)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except pa.ArrowInvalid as error:
        raise SourceError(
            "a parquet file cannot be read",
            expected="a complete parquet file",
            found=str(error).splitlines()[0],
            where=path,
            fix="delete its artifact and run again: it is made again",
        ) from error
