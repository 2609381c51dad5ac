"""What pairs teach, for ``tasks.tokens.lessons``: rows 2i chosen, rows 2i + 1 rejected.

A row holds one conversation, so that the rows of a pair lie side by side and nothing else is in
them; the mask is on the last answer and what ends it. ``model.train.loader`` keeps such rows
together.
"""

from __future__ import annotations

import numpy as np

from model.core.errors import CorpusError
from model.data.shards import Int32Array
from tasks.config.chat import LessonLayout
from tasks.tokens.lessons import LessonKind
from tasks.tokens.pairs import teach_pairs


def one_a_row(sizes: Int32Array, *, capacity: int) -> Int32Array:  # noqa: ARG001
    """Return the numbers of rows that hold one lesson each, in their order."""
    return np.arange(len(sizes), dtype=np.int32)


def _nothing_left(num_in: int, layout: LessonLayout) -> CorpusError:
    return CorpusError(
        f"no pair of answers is left for {layout.split}",
        expected=f"at least one whose last message and answers fit {layout.row_tokens} tokens",
        found=f"{num_in} pairs, all of them longer" if num_in else "none",
        fix="raise model.context_tokens, or give shorter or more pairs in preference.sets",
    )


PAIR_LESSONS = LessonKind(
    teach=teach_pairs, place=one_a_row, shortened="num_trimmed", nothing_left=_nothing_left
)
