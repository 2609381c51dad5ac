"""What conversations teach, for ``tasks.tokens.lessons``: every answer, rows best-fit-decreasing.

None is cut to fill a row, and each has an answer to learn.
"""

from __future__ import annotations

from model.core.errors import CorpusError
from tasks.config.chat import LessonLayout
from tasks.tokens.best_fit import best_fit_rows
from tasks.tokens.chats import teach
from tasks.tokens.lessons import LessonKind


def _nothing_left(num_in: int, layout: LessonLayout) -> CorpusError:
    is_held_out = layout.split == "validation"
    return CorpusError(
        f"no conversation is left for {layout.split}",
        expected=f"at least one whose first exchange fits {layout.row_tokens} tokens",
        found=f"{num_in} conversations, all of them longer" if num_in else "none",
        fix="raise chat.held_out_frac, or give more conversations"
        if is_held_out and not num_in
        else "raise model.context_tokens, or give shorter conversations",
    )


CHAT_LESSONS = LessonKind(
    teach=teach, place=best_fit_rows, shortened="num_cut", nothing_left=_nothing_left
)
