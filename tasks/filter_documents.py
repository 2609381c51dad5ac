"""Stage filter_documents: which documents of one file stay, and why the others go."""

from __future__ import annotations

from model.store import Work
from tasks.config import FilterConfig
from tasks.corpus.duck import Limits
from tasks.corpus.filters import filter_file
from tasks.download import raw_file
from tasks.stage import Share, Stage

STEP_VERSION = 1


def build(work: Work, config: FilterConfig, share: Share) -> None:
    """Write part.parquet and rejected.parquet."""
    (raw,) = work.input_manifests("raw")
    counts = filter_file(
        raw_file(work.input("raw")),
        file=raw.facts["file"],
        config=config,
        destination=work.path,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    work.counts = {"num_in": counts.num_in, "num_kept": counts.num_kept, **counts.num_dropped}
    work.facts = {
        "file": raw.facts["file"],
        "num_language_unknown": counts.num_language_unknown,
        "text_bytes": counts.text_bytes,
        "num_edited": counts.edits.num_documents,
        "num_citations_removed": counts.edits.num_citations,
        "dropped_lines": dict(counts.edits.dropped_lines),
    }


filter_documents = Stage("filter_documents", version=STEP_VERSION, build=build)
