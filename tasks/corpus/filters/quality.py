"""Apply the published quality rules to texts, in the order of the FineWeb recipe.

    Gopher repetition -> Gopher quality -> C4 (lines, then document) -> FineWeb

The first rule that drops a document names its reason. C4 rewrites the text, and the rules after it
see what it left. Language and the number of words are checked before, in SQL (``light_rules.sql``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.corpus.filters.quality_lines import (
    DOCUMENT_REASONS,
    LINE_REASONS,
    SENTENCE_RULES,
    LineEdits,
    edit_lines,
)
from tasks.corpus.filters.quality_repetition import REPETITION_RULES, Repetition
from tasks.corpus.filters.quality_rules import (
    FINEWEB_RULES,
    GOPHER_RULES,
    FineWebQuality,
    GopherQuality,
    Verdicts,
)
from tasks.corpus.filters.text_buffer import TextBuffer
from tasks.corpus.shingles import batches

REASONS = (
    *(rule.reason for rule in REPETITION_RULES),
    *(rule.reason for rule in GOPHER_RULES),
    *DOCUMENT_REASONS,
    *(rule.reason for rule in SENTENCE_RULES),
    *(rule.reason for rule in FINEWEB_RULES),
)
BATCH_CHARS = 500_000  # of one buffer: its arrays take about 100 bytes a character


@dataclass(frozen=True)
class QualityOutcome(LineEdits):
    """The verdict of the rules on each text of a list, and the edited text."""

    reasons: list[str | None]  # why it is dropped, None where it is kept
    details: list[str | None]  # the offending value


def apply_quality_rules(texts: Sequence[str], *, terminal_punctuation: bool) -> QualityOutcome:
    """Return the verdicts on texts, in bounded memory however many there are.

    Profile ``strict`` drops lines without terminal punctuation.
    """
    parts = [
        _apply_to_batch(batch, terminal_punctuation=terminal_punctuation)
        for batch in batches(texts, max_chars=BATCH_CHARS)
    ]
    return QualityOutcome(
        texts=[text for part in parts for text in part.texts],
        dropped_lines=np.concatenate([_NO_LINES, *(part.dropped_lines for part in parts)]),
        num_citations=np.concatenate([_NO_LINES[:, 0], *(part.num_citations for part in parts)]),
        reasons=[reason for part in parts for reason in part.reasons],
        details=[detail for part in parts for detail in part.details],
    )


_NO_LINES = np.zeros((0, len(LINE_REASONS)), np.int64)


def _apply_to_batch(texts: Sequence[str], *, terminal_punctuation: bool) -> QualityOutcome:
    verdicts = Verdicts.none_yet(len(texts))
    buffer = TextBuffer(texts)
    verdicts.apply(REPETITION_RULES, Repetition(buffer))
    verdicts.apply(GOPHER_RULES, GopherQuality(buffer))
    edits = edit_lines(buffer, verdicts, terminal_punctuation=terminal_punctuation)
    left = np.flatnonzero(verdicts.kept).tolist()
    edited = TextBuffer([edits.texts[doc] for doc in left])
    verdicts.apply(SENTENCE_RULES, edited, left)
    verdicts.apply(FINEWEB_RULES, FineWebQuality(edited), left)
    return QualityOutcome(**vars(edits), **vars(verdicts))
