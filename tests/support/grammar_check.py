"""Single sentences checked by the grammar of the demo corpus, and the size of that language."""

from __future__ import annotations

import re

from tasks.corpus.demo.grammar import (
    ANSWER_PREFIX,
    QUESTION_PREFIX,
    PatternRole,
    patterns,
    share_accepted,
)
from tasks.corpus.demo.templates import slots_of, templates

ROLES: tuple[PatternRole, ...] = ("statement", "question", "title")


def is_sentence(text: str) -> bool:
    """Tell whether the grammar can produce this one sentence, a statement or a question."""
    lines = [f"{prefix} {text}" for prefix in (ANSWER_PREFIX, QUESTION_PREFIX)]  # not split
    return any(share_accepted(line).share == 1.0 for line in lines)


def word_forms() -> set[str]:
    """Return the different word forms that sentences and titles are made of."""
    words: set[str] = set()
    kinds = templates().kinds
    for pattern in (pattern for role in ROLES for pattern in patterns(role)):
        surfaces = [forms[slot.form] for slot in slots_of(pattern) for forms in kinds[slot.kind]]
        for text in [re.sub(r"\{[\w.]+\}", " ", pattern), *surfaces]:
            words.update(word.lower() for word in re.findall(r"[A-Za-z]+", text))
    return words
