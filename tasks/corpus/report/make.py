"""Corpus report of a prepared corpus: an HTML page, and the same content as JSON.

``report.html`` is self-contained; ``report.json`` is a ``data.Report``. Neither depends on when or
where it was made: equal corpora give equal bytes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.config.run import ReportConfig
from tasks.corpus.duckdb_connection import Limits, read_sql
from tasks.corpus.report.data import CorpusFiles, Disk, FunnelLine, Loss, Report, Tokens
from tasks.corpus.report.examples import example_pairs, rejected_examples
from tasks.corpus.report.measures import Measures
from tasks.corpus.report.page import page

PAGE = "report.html"
DATA = "report.json"
MEMORY_BYTES = 4_000_000_000  # a training may run at the same time; larger queries spill to disk


@dataclass(frozen=True)
class KnownNumbers:
    """Numbers that the stages counted when they made the corpus, named as in the report."""

    source: Mapping[str, str]  # kind, repository and the like, by name
    funnel: Sequence[FunnelLine]
    losses: Sequence[Loss]  # reasons of all stages, in their order, without examples
    tokens: Tokens  # without the source's own counts
    disk: Sequence[Disk]
    skipped_records: int = 0  # broken records of the source
    edits: Mapping[str, int] | None = None
    personal_data: Mapping[str, int] | None = None
    contamination: Mapping[str, int] | None = None


def write_report(
    files: CorpusFiles,
    known: KnownNumbers,
    *,
    config: ReportConfig,
    destination: Path,
    limits: Limits,
) -> Report:
    """Write ``report.html`` and ``report.json``, and return their content."""
    started = time.perf_counter()
    report = make_report(files, known, config=config, limits=limits)
    (destination / DATA).write_text(report.model_dump_json(indent=1), encoding="utf-8")
    (destination / PAGE).write_text(page(report), encoding="utf-8")
    logging.getLogger(__name__).info(
        "report of %d documents in %d files: %.1f s",
        report.score.summary_before.documents + report.score.summary_before.unknown,
        report.files,
        time.perf_counter() - started,
    )
    return report


def make_report(
    files: CorpusFiles, known: KnownNumbers, *, config: ReportConfig, limits: Limits
) -> Report:
    """Return the content of the report."""
    limits = replace(limits, memory_bytes=min(limits.memory_bytes, MEMORY_BYTES))
    with limits.connect() as connection:
        connection.execute(read_sql("domain_of"))
        connection.execute(read_sql("report_documents"))
        measures = Measures(connection, files)
        chars = measures.chars()
        words = measures.words(
            sample_chars=config.sample_chars, total_chars=chars.summary_before.total or 0
        )
        examples = rejected_examples(connection, files, num_examples=config.num_examples)
        source_before, source_after = measures.source_tokens()
        source_counts = {"source_before": source_before, "source_after": source_after}
        measured = {
            "files": len(files.raw),
            "losses": [
                loss.model_copy(update={"examples": examples.get(loss.reason, ())})
                for loss in known.losses
            ],
            "score": measures.score(),
            "chars": chars,
            "words": words.histogram,
            "sample": words.sample,
            "domains": measures.domains(),
            "dumps": measures.dumps(),
            "cluster_sizes": measures.cluster_sizes(),
            "similarities": measures.similarities(),
            "pairs": example_pairs(connection, files, num_examples=config.num_examples),
            "vocabulary": words.vocabulary,
            "tokens": known.tokens.model_copy(update=source_counts),
        }
        return Report.model_validate(vars(known) | measured)
