"""Classes of characters for the quality rules: white space, letters, digits, signs."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
Codes = NDArray[np.uint32]
Classes = NDArray[np.uint8]

SPACE, LINE_END, LETTER, DIGIT, WORD, PUNCTUATION, SIGN, UPPER = (1 << bit for bit in range(8))
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # what str.splitlines() splits at
SENTENCE_ENDS = ".?!‼‽⁇⁈⁉。．！？｡﹒﹖﹗։؟۔।॥"  # Unicode Sentence_Terminal, of common scripts
_HIGHEST = 0x10000  # one class for all characters above the Basic Multilingual Plane: signs


def classes_of(codes: Codes) -> Classes:
    """Return the class bits of each code point."""
    return np.take(_class_table(), codes, mode="clip")


def is_any(codes: Codes, characters: str) -> Flags:
    """Return which code points are among a few characters."""
    found = np.zeros(len(codes), dtype=bool)
    for character in characters:
        found |= codes == ord(character)
    return found


@lru_cache(maxsize=1)
def _class_table() -> Classes:
    table = np.zeros(_HIGHEST + 1, dtype=np.uint8)
    for code in range(_HIGHEST):
        table[code] = _class_of(chr(code))
    table[_HIGHEST] = SIGN
    return table


def _class_of(character: str) -> int:
    if character.isspace():
        return SPACE | (LINE_END if character in LINE_ENDS else 0)
    category = unicodedata.category(character)
    if category[0] == "L":
        return WORD | LETTER | (UPPER if category in ("Lu", "Lt") else 0)
    if category[0] == "N":
        return WORD | DIGIT
    if category[0] == "P":
        return PUNCTUATION
    if category[0] == "S":
        return SIGN if category == "So" else PUNCTUATION
    return WORD  # marks, and what cannot be seen, belong to the word around them
