"""Stage write_preference_shards: pairs of answers as token shards, two rows of each pair.

Its artifacts are those that ``tasks.engine.lesson_shards`` tells of.
"""

from __future__ import annotations

from model.core.store import Work
from tasks.config.chat import LessonLayout
from tasks.engine.lesson_shards import build_lessons
from tasks.engine.stage import Share, Stage
from tasks.tokens.preference_shards import PAIR_LESSONS

STEP_VERSION = 1


def build(work: Work, config: LessonLayout, share: Share) -> None:  # noqa: ARG001
    """Write shard-*.arrow and rows.arrow."""
    build_lessons(work, config, kind=PAIR_LESSONS, role="preferences")


write_preference_shards = Stage(
    "write_preference_shards", version=STEP_VERSION, build=build, scope="corpus"
)
