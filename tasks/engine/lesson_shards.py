"""Shards of lessons for the stages write_chat_shards and write_preference_shards.

One artifact per set for training, so that a mixture can weigh them; one of all sets for validation.
"""

from __future__ import annotations

from typing import Final

from model.core.store import Work
from tasks.config.chat import LessonLayout
from tasks.corpus.chat_data.checked_sets import HELD_OUT_NAME, TRAINING_NAME
from tasks.tokens.lessons import LessonKind, write_lessons
from tasks.tokens.record_tables import RecordTable

VALIDATION: Final = "validation"  # name of the artifact of all sets


def build_lessons(work: Work, layout: LessonLayout, *, kind: LessonKind, role: str) -> None:
    """Write shard-*.arrow and rows.arrow.

    Args:
        role: of the inputs that are the sets.
    """
    name = HELD_OUT_NAME if layout.split == "validation" else TRAINING_NAME
    counts = write_lessons(
        [
            RecordTable(item.name, work.store.path(item) / name)
            for item in work.derivation.inputs[role]
        ],
        kind=kind,
        layout=layout,
        tokenizer_directory=work.input("tokenizer"),
        destination=work.path,
    )
    work.counts = counts.of_stage(kind)
    work.facts = {"context_tokens": layout.context_tokens}
