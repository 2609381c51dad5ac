"""The grammar of the demo corpus: fills sentence patterns, and recognises their sentences.

One set of templates is read both ways. A sentence is in the language iff some pattern can produce
it with entries in its slots that agree: the forms of a slot belong to one entry ("Anna ... her"),
and two people of a sentence are not the same. This checks grammar, not truth or coherence.

Called by `stories` to write, and by stage judge_texts to check what a trained model wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from tasks.corpus.demo.templates import SLOT, Slot, kind_of, slots_of, templates

CLOSING_LINE = "That was the end of the story."
"""A sentence that no plot tells; a planted near-duplicate is its original and this line."""

QUESTION_PREFIX = "Question:"
ANSWER_PREFIX = "Answer:"

_SENTENCE_BORDER = re.compile(r"""(?<=[.?!])\s+|(?<=[.?!]")\s+(?=[A-Z"])""")

PatternRole = Literal["statement", "question", "title"]


@dataclass(frozen=True)
class Acceptance:
    """How many sentences of a text the grammar accepts."""

    num_sentences: int
    num_accepted: int

    @property
    def share(self) -> float:
        """The accepted fraction; 0 for a text without sentences."""
        return self.num_accepted / self.num_sentences if self.num_sentences else 0.0


# --- writing -----------------------------------------------------------------------------------


@cache
def patterns(role: PatternRole) -> tuple[str, ...]:
    """List every pattern of a role, once each, in the order of the plots."""
    plots = templates().plots
    if role == "title":
        return tuple(dict.fromkeys(title for plot in plots for title in plot.titles))
    moves = [move for plot in plots for move in plot.moves()]
    if role == "question":
        return tuple(dict.fromkeys(question for move in moves for question in move.ask))
    told = [telling for move in moves for telling in move.tell]
    answers = [answer for move in moves for answer in move.ask.values()]
    return tuple(dict.fromkeys([*told, *answers, CLOSING_LINE, *_replies()]))


def _replies() -> Iterator[str]:
    """Yield the answers of small talk, sentence by sentence."""
    for exchange in (*templates().chats.small_talk, *templates().chats.farewells):
        for answer in exchange.answers:
            yield from _SENTENCE_BORDER.split(answer)


@cache
def fillers(variable: str) -> tuple[dict[str, str], ...]:
    """List the fillings of a variable: for each entry, slot text ("thing2.a") -> words."""
    return tuple(
        {f"{variable}.{form}".rstrip("."): words for form, words in forms.items()}
        for forms in templates().kinds[kind_of(variable)]
    )


def fill(pattern: str, bindings: Mapping[str, str]) -> str:
    """Fill the slots of a pattern and capitalise its first letter.

    Example:
        `fill("{colour.a} {thing}", {"colour.a": "an orange", "thing": "kite"})` -> "An orange kite"
    """
    text = _percent_pattern(pattern) % bindings
    return text[0].upper() + text[1:]


@cache
def _percent_pattern(pattern: str) -> str:
    return SLOT.sub(lambda match: f"%({match[0][1:-1]})s", pattern)


# --- recognising ------------------------------------------------------------------------------


def is_title(text: str) -> bool:
    """Tell whether the grammar can produce this title."""
    return _accepts(text, role="title")


def share_accepted(
    text: str, *, unfinished_tail: Literal["counted", "dropped"] = "counted"
) -> Acceptance:
    """Count the sentences of a text that the grammar accepts.

    A first line that is a title is not counted. After "Question:" a line must be one question,
    after "Answer:" one statement; every other line is split into statements. A last sentence
    without an end mark is left out where `unfinished_tail` says that a length limit stopped it.
    """
    units = list(_units(text))
    if unfinished_tail == "dropped" and units and not re.search(r'[.?!]"?$', units[-1][1]):
        units.pop()
    accepted = sum(_accepts(sentence, role=role) for role, sentence in units)
    return Acceptance(num_sentences=len(units), num_accepted=accepted)


def _units(text: str) -> Iterator[tuple[PatternRole, str]]:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if lines and is_title(lines[0]):
        lines = lines[1:]
    for line in lines:
        if line.startswith(QUESTION_PREFIX):
            yield "question", line.removeprefix(QUESTION_PREFIX).strip()
        elif line.startswith(ANSWER_PREFIX):
            yield "statement", line.removeprefix(ANSWER_PREFIX).strip()
        else:
            for sentence in _SENTENCE_BORDER.split(line):
                yield "statement", sentence


def _accepts(text: str, *, role: PatternRole) -> bool:
    if not text or text[0].islower():
        return False
    lowered = text[0].lower() + text[1:]
    return any(
        matcher.accepts(lowered if matcher.starts_lower else text) for matcher in _matchers(role)
    )


@cache
def _matchers(role: PatternRole) -> tuple[_Matcher, ...]:
    return tuple(_Matcher.of(pattern) for pattern in patterns(role))


@dataclass(frozen=True)
class _Matcher:
    """One pattern as a regular expression, and its slots in order.

    `starts_lower`: the pattern opens with a slot of lower-case words, to be matched on a text
    whose capital was taken away.
    """

    regex: re.Pattern[str]
    slots: tuple[Slot, ...]
    starts_lower: bool

    @classmethod
    def of(cls, pattern: str) -> _Matcher:
        slots = slots_of(pattern)
        literals = SLOT.sub("\0", pattern).split("\0")
        source = re.escape(literals[0])
        for slot, literal in zip(slots, literals[1:], strict=True):
            source += f"({'|'.join(map(re.escape, _entries_by_words(slot)))}){re.escape(literal)}"
        opens_lower = not literals[0] and next(iter(_entries_by_words(slots[0])))[0].islower()
        return cls(re.compile(source), slots, opens_lower)

    def accepts(self, text: str) -> bool:
        match = self.regex.fullmatch(text)
        return match is not None and _agree(self.slots, match.groups())


def _agree(slots: tuple[Slot, ...], words: tuple[str, ...]) -> bool:
    """Tell whether entries exist that give these words, other ones for other variables."""
    possible: dict[str, frozenset[int]] = {}
    for slot, found in zip(slots, words, strict=True):
        entries = _entries_by_words(slot)[found]
        possible[slot.variable] = possible.get(slot.variable, entries) & entries
    settled = [
        (kind_of(variable), *entries)
        for variable, entries in possible.items()
        if len(entries) == 1 and kind_of(variable) not in templates().repeatable
    ]
    return all(possible.values()) and len(settled) == len(set(settled))


@cache
def _entries_by_words(slot: Slot) -> dict[str, frozenset[int]]:
    """Map each filling of a slot to the numbers of the entries that have it."""
    entries: dict[str, frozenset[int]] = {}
    for number, forms in enumerate(templates().kinds[slot.kind]):
        words = forms[slot.form]
        entries[words] = entries.get(words, frozenset()) | {number}
    return entries
