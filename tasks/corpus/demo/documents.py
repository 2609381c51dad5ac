"""One document of the demo corpus: a story in FineWeb's columns, or a fault planted in its place.

Any document is made from (seed, shard, row) alone. Duplicates therefore need no memory: their
original, a clean row above them in this or an earlier shard, is made again. So no shard of a
corpus may be longer than one before it.

Called by `corpus`, which writes shards.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from random import Random
from typing import Any
from uuid import UUID

from model.core.errors import ConfigError
from tasks.corpus.demo.grammar import CLOSING_LINE
from tasks.corpus.demo.stories import document_text, story
from tasks.corpus.demo.templates import templates

Record = dict[str, Any]
"""The values of FineWeb's columns, by name."""

ID_LENDER_ROW = 3
ID_BORROWER_ROW = 11
_ALWAYS_CLEAN_ROWS = frozenset({0, ID_LENDER_ROW})

_MAX_PLANTED = 0.5
_CROSS_SHARD_CHANCE = 0.3
_NUM_TRIES_FOR_ORIGINAL = 8
_DUPLICATE_SCORE_GAP = 0.05
_NUM_FOREIGN_SENTENCES = 14

_DUMPS = ("2024-10", "2024-18", "2024-26", "2024-33", "2024-42", "2024-51")
_SITES = ("stories", "village-news", "reading-room", "small-library", "story-hour", "notebook")
_TOKEN = re.compile(r"\w+|[^\w\s]")


class DocumentKind(StrEnum):
    """Kind of a row: clean, or the fault planted in it."""

    CLEAN = "clean"
    EXACT_DUPLICATE = "exact_duplicate"  # other id, address and dump
    NORMALISED_DUPLICATE = "normalised_duplicate"  # other case or white space
    NEAR_DUPLICATE = "near_duplicate"  # one more line
    NON_ENGLISH = "non_english"  # labelled with its language at a high score
    LOW_LANGUAGE_SCORE = "low_language_score"  # half English, labelled "en" at a low score
    EMPTY_TEXT = "empty_text"
    NULL_TEXT = "null_text"
    TOO_SHORT = "too_short"  # one sentence; the only kind whose texts may repeat by chance
    REPEATED_ID = "repeated_id"  # a clean text under the id of another row


@dataclass(frozen=True)
class PlantedRates:
    """Share of rows of each planted kind; together at most a half.

    The repeated id has no rate: every shard that is long enough has exactly one.

    Raises:
        ConfigError: a rate is not between 0 and 1, or their sum is above a half.
    """

    exact_duplicate: float = 0.008
    normalised_duplicate: float = 0.004
    near_duplicate: float = 0.004
    non_english: float = 0.008
    low_language_score: float = 0.006
    empty_text: float = 0.002
    null_text: float = 0.001
    too_short: float = 0.003

    def __post_init__(self) -> None:
        rates = asdict(self)
        if all(0 <= rate <= 1 for rate in rates.values()) and sum(rates.values()) <= _MAX_PLANTED:
            return
        raise ConfigError(
            "The demo corpus cannot plant faults at these rates.",
            expected=f"each between 0 and 1, together at most {_MAX_PLANTED}",
            found=", ".join(f"{name}={rate}" for name, rate in rates.items()),
            fix="lower the rates; most documents must stay clean",
        )


DEFAULT_PLANTED = PlantedRates()


@dataclass(frozen=True)
class DemoDocument:
    """One row of a shard and the truth about it."""

    row: int
    kind: DocumentKind
    record: Record  # the values of FineWeb's columns
    # Where the row that this one repeats is, in text or id; else None.
    original_shard: int | None = None
    original_row: int | None = None  # likewise


def demo_document(
    row: int, *, shard: int, seed: int, planted: PlantedRates = DEFAULT_PLANTED
) -> DemoDocument:
    """Make one document from its place alone."""
    rng = _random_of(row, shard=shard, seed=seed)
    kind = _draw_kind(rng, row=row, planted=planted)
    record = _clean_record(rng, shard=shard)
    if kind is DocumentKind.REPEATED_ID:
        lender = demo_document(ID_LENDER_ROW, shard=shard, seed=seed, planted=planted)
        return DemoDocument(row, kind, record | {"id": lender.record["id"]}, shard, ID_LENDER_ROW)
    if kind in _REWORDINGS:
        place = _draw_original(rng, row=row, shard=shard, seed=seed, planted=planted)
        original = demo_document(place[1], shard=place[0], seed=seed, planted=planted).record
        record |= _repeated(original, text=_REWORDINGS[kind](original["text"], rng))
        return DemoDocument(row, kind, record, *place)
    if kind in _FAULTS:
        record |= _FAULTS[kind](rng)
        record["token_count"] = _num_tokens(record["text"])
    return DemoDocument(row, kind, record)


# --- a clean row ------------------------------------------------------------------------------


def _random_of(row: int, *, shard: int, seed: int) -> Random:
    return Random(f"demo corpus/{seed}/{shard}/{row}")  # noqa: S311 - nothing secret is drawn


def _draw_kind(rng: Random, *, row: int, planted: PlantedRates) -> DocumentKind:
    point = rng.random()
    if row in _ALWAYS_CLEAN_ROWS:
        return DocumentKind.CLEAN
    if row == ID_BORROWER_ROW:
        return DocumentKind.REPEATED_ID
    for name, rate in vars(planted).items():
        if point < rate:
            return DocumentKind(name)
        point -= rate
    return DocumentKind.CLEAN


def _clean_record(rng: Random, *, shard: int) -> Record:
    text = document_text(rng)
    dump = f"DEMO-{rng.choice(_DUMPS)}"
    month, day, hour, minute = (rng.randint(1, top) for top in (12, 28, 23, 59))
    return {
        "text": text,
        "id": f"<urn:uuid:{UUID(int=rng.getrandbits(128), version=4)}>",
        "dump": dump,
        "url": f"https://{rng.choice(_SITES)}.example/2024/{month:02}/{rng.getrandbits(40):010x}",
        "date": f"2024-{month:02}-{day:02}T{hour:02}:{minute:02}:00Z",
        "file_path": f"demo://{dump}/part-{shard:05}",
        "language": "en",
        "language_score": round(rng.uniform(0.8, 0.99), 4),
        "token_count": _num_tokens(text),
    }


def _num_tokens(text: str | None) -> int:
    """Count words and punctuation marks, which is what most tokenizers make of such plain text."""
    return len(_TOKEN.findall(text or ""))


# --- a row that repeats another ---------------------------------------------------------------


def _draw_original(
    rng: Random, *, row: int, shard: int, seed: int, planted: PlantedRates
) -> tuple[int, int]:
    """Draw the (shard, row) of a clean document above this one; row 0 is always clean."""
    across = shard > 0 and rng.random() < _CROSS_SHARD_CHANCE
    original_shard = rng.randrange(shard) if across else shard
    for _ in range(_NUM_TRIES_FOR_ORIGINAL):
        candidate = rng.randrange(row)
        candidate_rng = _random_of(candidate, shard=original_shard, seed=seed)
        if _draw_kind(candidate_rng, row=candidate, planted=planted) is DocumentKind.CLEAN:
            return original_shard, candidate
    return original_shard, 0


def _repeated(original: Record, *, text: str) -> Record:
    """Return the changed columns of a duplicate; its lower score makes the original better."""
    score = round(original["language_score"] - _DUPLICATE_SCORE_GAP, 4)
    return {"text": text, "language_score": score, "token_count": _num_tokens(text)}


def _reword_spacing_or_case(text: str, rng: Random) -> str:
    rewordings: tuple[Callable[[str], str], ...] = (
        str.upper,
        str.lower,
        lambda text: text.replace(" ", "  "),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.replace("\n", " \n "),
    )
    return rng.choice(rewordings)(text)


_REWORDINGS: dict[DocumentKind, Callable[[str, Random], str]] = {
    DocumentKind.EXACT_DUPLICATE: lambda text, _rng: text,
    DocumentKind.NORMALISED_DUPLICATE: _reword_spacing_or_case,
    DocumentKind.NEAR_DUPLICATE: lambda text, _rng: f"{text}\n{CLOSING_LINE}",
}

# --- a row with a fault of its own ------------------------------------------------------------


def _non_english(rng: Random) -> Record:
    language = rng.choice(sorted(templates().foreign))
    sentences = _foreign_sentences(rng, language)
    return {"text": " ".join(sentences), "language": language}


def _half_english(rng: Random) -> Record:
    foreign = _foreign_sentences(rng, rng.choice(sorted(templates().foreign)))
    mixed = [sentence for pair in zip(story(rng).sentences, foreign) for sentence in pair]  # noqa: B905 - the longer one is cut
    return {"text": " ".join(mixed), "language_score": round(rng.uniform(0.3, 0.6499), 4)}


def _foreign_sentences(rng: Random, language: str) -> list[str]:
    words = templates().foreign[language]
    drawn = [rng.sample(words, rng.randint(5, 9)) for _ in range(_NUM_FOREIGN_SENTENCES)]
    return [" ".join(sentence).capitalize() + "." for sentence in drawn]


_FAULTS: dict[DocumentKind, Callable[[Random], Record]] = {
    DocumentKind.NON_ENGLISH: _non_english,
    DocumentKind.LOW_LANGUAGE_SCORE: _half_english,
    DocumentKind.EMPTY_TEXT: lambda _rng: {"text": ""},
    DocumentKind.NULL_TEXT: lambda _rng: {"text": None},
    DocumentKind.TOO_SHORT: lambda rng: {"text": story(rng).sentences[0]},
}
