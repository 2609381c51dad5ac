"""Labelled documents for the quality model: parquet files here or on a hub, with text and label."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from model.core.errors import SourceSchemaError
from tasks.config.corpus import QualityModelConfig, SourceConfig
from tasks.corpus.classifier.linear_model import Features, Featurizer
from tasks.corpus.sources.hub import DOWNLOAD_FOLDER
from tasks.corpus.sources.raw_file import SourceFile, open_parquet
from tasks.corpus.sources.source_files import original_file, resolve_revision

BATCH_ROWS = 1_024

Labels = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LabelledDocuments:
    """Features and labels of documents, split into training and held-out ones."""

    documents: list[Features]
    good: Labels
    is_heldout: Labels


def labelled_source(config: QualityModelConfig) -> SourceConfig:
    """Return the source of the labelled files; a branch of a hub is looked up."""
    source = SourceConfig(
        kind=config.labels,
        repo=config.repo,
        revision=config.revision,
        files=config.files,
        path=config.path,
    )
    return resolve_revision(source)


def read_labelled(
    source: SourceConfig,
    files: Sequence[SourceFile],
    *,
    config: QualityModelConfig,
    seed: int,
    scratch: Path,
) -> LabelledDocuments:
    """Read at most ``config.max_labelled`` documents, evenly spread over the files.

    Rows without text or label are skipped. A document is held out by the hash of its text, so that
    copies of it are in one part. Memory holds features, never texts.

    Args:
        seed: of the choice of held-out documents.
        scratch: an existing directory; files of a hub are in its ``DOWNLOAD_FOLDER`` until all are
            read, so that a retry need not fetch them again.

    Raises:
        SourceError: a file is missing or damaged.
        SourceSchemaError: a file has no such columns, or labels that are not numbers.
        DownloadError: the hub refused, or sent other bytes than its listing says.
    """
    featurizer = Featurizer(config.feature_bits)
    documents: list[Features] = []
    good: list[bool] = []
    heldout: list[bool] = []
    bar = round(config.heldout_frac * 2**64)
    for text, label in _rows(source, files, config=config, scratch=scratch):
        documents.append(featurizer.features(text))
        good.append(label >= config.min_good_label)
        heldout.append(xxhash.xxh3_64_intdigest(text.encode(), seed=seed) < bar)
    logging.getLogger(__name__).info("%d labelled documents, %d good", len(documents), sum(good))
    return LabelledDocuments(documents, np.array(good, bool), np.array(heldout, bool))


def _rows(
    source: SourceConfig,
    files: Sequence[SourceFile],
    *,
    config: QualityModelConfig,
    scratch: Path,
) -> Iterator[tuple[str, float]]:
    """Yield text and label of evenly spaced rows, of every file the same share."""
    downloads = scratch / DOWNLOAD_FOLDER
    for number, file in enumerate(files):
        share = config.max_labelled * (number + 1) // len(files)
        wanted = share - config.max_labelled * number // len(files)
        path = original_file(source, file, downloads=downloads / str(number))
        with open_parquet(path, where=path, pre_buffer=False) as parquet:
            _require_columns(parquet.schema_arrow, config, where=file.path)
            yield from _spaced_rows(parquet, wanted, config=config)
    if downloads.exists():
        shutil.rmtree(downloads)


def _spaced_rows(
    parquet: pq.ParquetFile, wanted: int, *, config: QualityModelConfig
) -> Iterator[tuple[str, float]]:
    num_rows = parquet.metadata.num_rows
    columns = [config.text_column, config.label_column]
    row = 0
    for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
        labels = pc.cast(batch.column(config.label_column), pa.float64())  # pyright: ignore[reportAttributeAccessIssue]
        texts = batch.column(config.text_column)
        for number in range(batch.num_rows):
            is_wanted = num_rows <= wanted or row * wanted % num_rows < wanted
            row += 1
            if is_wanted and texts[number].as_py() and labels[number].is_valid:
                yield texts[number].as_py(), labels[number].as_py()


def _require_columns(schema: pa.Schema, config: QualityModelConfig, *, where: str) -> None:
    kinds = dict(zip(schema.names, schema.types, strict=True))
    text, label = kinds.get(config.text_column), kinds.get(config.label_column)
    is_text = text is not None and (pa.types.is_string(text) or pa.types.is_large_string(text))
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    if is_text and label is not None and any(check(label) for check in checks):
        return
    raise SourceSchemaError(
        "a labelled file lacks a column",
        expected=f"{config.text_column}: string, {config.label_column}: a number or boolean",
        found=", ".join(f"{name}: {kind}" for name, kind in kinds.items()),
        where=where,
        fix="set quality_model.text_column and quality_model.label_column",
    )
