"""Stage write_chat_shards: conversations as token shards with a loss mask, and rows of whole ones.

Its artifacts are those that ``tasks.engine.lesson_shards`` tells of.
"""

from __future__ import annotations

from model.core.store import Work
from tasks.config.chat import LessonLayout
from tasks.engine.lesson_shards import build_lessons
from tasks.engine.stage import Share, Stage
from tasks.tokens.chat_shards import CHAT_LESSONS

STEP_VERSION = 1


def build(work: Work, config: LessonLayout, share: Share) -> None:  # noqa: ARG001
    """Write shard-*.arrow and rows.arrow."""
    build_lessons(work, config, kind=CHAT_LESSONS, role="chats")


write_chat_shards = Stage("write_chat_shards", version=STEP_VERSION, build=build, scope="corpus")
