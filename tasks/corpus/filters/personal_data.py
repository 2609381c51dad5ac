"""Find personal data in text and replace it with readable placeholders.

Rules and checks, no model: e-mail addresses, public IP addresses, payment cards (Luhn), US social
security numbers, telephone numbers, secret keys. Called by the document filter, batch by batch.

E-mail and IP addresses follow FineWeb (datatrove ``pipeline/formatters/pii.py``, arXiv 2406.17557)
with its placeholders, which are not counted as personal data: its texts contain them already.
Deviations: capital letters are letters too, numbers need a boundary, and each kind has one
placeholder instead of a rotation, so that a text's result depends on that text alone.

    email         email@example.com
    ip_address    22.214.171.124, or 2001:db8::1 for version 6
    credit_card   [card number]
    ssn           [social security number]
    phone         [phone number]
    secret_key    [secret key]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc

from tasks.config.corpus import PersonalDataConfig, PersonalDataKind
from tasks.corpus.arrow_columns import with_rows
from tasks.corpus.filters.personal_data_rules import (
    ADDRESSES,
    MAY_CONTAIN,
    PLACEHOLDER_BEFORE_AT,
    RULES,
    is_placeholder,
)

KINDS: tuple[PersonalDataKind, ...] = get_args(PersonalDataKind)
PLACEHOLDERS: dict[PersonalDataKind, str] = {
    "email": "email@example.com",
    "ip_address": "22.214.171.124",
    "credit_card": "[card number]",
    "ssn": "[social security number]",
    "phone": "[phone number]",
    "secret_key": "[secret key]",
}
IPV6_PLACEHOLDER = "2001:db8::1"
_BLANK = "\x00"  # matches no rule, so it separates its neighbours


@dataclass(frozen=True)
class Span:
    """One piece of personal data: ``text[start:end]``, in characters."""

    kind: PersonalDataKind
    start: int
    end: int


def find_personal_data(text: str, kinds: Collection[PersonalDataKind] = KINDS) -> list[Span]:
    """Return the personal data of a text, in order, none overlapping another.

    Findings are blanked and the text is searched again until nothing is left, so that a number
    whose neighbour was blanked is found too, and masked text has nothing more to find.

    Example:
        >>> find_personal_data("Call 312-555-0165 or write to 192.168.0.1.")
        [Span(kind='phone', start=5, end=17)]
    """
    spans: list[Span] = []
    rest = _without_placeholders(text)
    while True:
        num_before = len(spans)
        for kind in RULES:
            if kind in kinds:
                found = [Span(kind, start, end) for start, end in RULES[kind](rest)]
                rest = _replaced(rest, [(span, _BLANK * (span.end - span.start)) for span in found])
                spans += found
        if len(spans) == num_before:
            return sorted(spans, key=lambda span: span.start)


def mask(text: str, spans: Sequence[Span]) -> str:
    """Return ``text`` with the placeholder of its kind (see above) in place of each span.

    Masking what ``find_personal_data`` finds leaves nothing for it to find.

    Example:
        >>> mask("Call 312-555-0165.", [Span("phone", 5, 17)])
        'Call [phone number].'
    """
    return _replaced(text, [(span, _placeholder(text, span)) for span in spans])


def edit_personal_data(
    texts: pa.Array, config: PersonalDataConfig
) -> tuple[pa.Array, Counter[PersonalDataKind]]:
    """Find personal data in a batch of texts, and mask it if ``config.action`` is mask.

    One pass of a linear automaton (RE2) selects the few texts that may contain some; only these are
    read by the exact rules.

    Args:
        texts: a string or large_string array, as the ``text`` column of a record batch.

    Returns:
        The texts, NULL for NULL, and the number of findings of each wanted kind.
    """
    num_found = Counter(dict.fromkeys(config.kinds, 0))
    if config.action == "keep" or not config.kinds:
        return texts, num_found
    edited: dict[int, str] = {}
    may_contain = pc.match_substring_regex(texts, pattern=MAY_CONTAIN)  # pyright: ignore[reportAttributeAccessIssue]
    for row in pc.indices_nonzero(may_contain).to_pylist():  # pyright: ignore[reportAttributeAccessIssue]
        text = texts[row].as_py()
        spans = find_personal_data(text, config.kinds)
        num_found.update(span.kind for span in spans)
        if spans and config.action == "mask":
            edited[row] = mask(text, spans)
    return with_rows(texts, edited), num_found


def _without_placeholders(text: str) -> str:
    """Return the text with earlier placeholders blanked: their digits are no part of a number."""
    text = PLACEHOLDER_BEFORE_AT.sub(lambda found: _BLANK * len(found[0]), text)
    for find_all in ADDRESSES:
        spans = [
            (Span("email", start, end), _BLANK * (end - start))
            for start, end in find_all(text)
            if is_placeholder(text[start:end])
        ]
        text = _replaced(text, spans)
    return text


def _placeholder(text: str, span: Span) -> str:
    if span.kind == "ip_address" and ":" in text[span.start : span.end]:
        return IPV6_PLACEHOLDER
    return PLACEHOLDERS[span.kind]


def _replaced(text: str, replacements: Sequence[tuple[Span, str]]) -> str:
    """Return the text with each span, in order, replaced."""
    parts: list[str] = []
    position = 0
    for span, replacement in replacements:
        parts += (text[position : span.start], replacement)
        position = span.end
    return "".join([*parts, text[position:]])
