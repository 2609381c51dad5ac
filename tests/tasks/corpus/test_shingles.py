"""tasks.corpus.shingles against regular expressions and Python sets."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.corpus.shingles import batches, jaccard, shingle_hashes, shingle_sets, word_hashes

HOSTILE = [
    "",
    "one",
    "ONE one One",
    "don't stop_now 3.14 -- ",
    "Ünïcödé ΟΔΟΣ οδος İstanbul 漢字かな ١٢٣",
    "\ud800 lone surrogate",
    "e\u0301 combining",
    "a" * 5_000,
    "\x00 \u2028 \u0085 tab\tend",
]


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def windows(text: str, size: int) -> list[tuple[str, ...]]:
    words = words_of(text)
    if 0 < len(words) < size:
        return [tuple(words)]
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]


def test_word_hashes_are_those_of_the_regular_expression() -> None:
    found = word_hashes(HOSTILE)
    spelled = [word for text in HOSTILE for word in words_of(text)]
    assert found.lengths.tolist() == [len(words_of(text)) for text in HOSTILE]
    by_word = dict(zip(spelled, found.hashes.tolist(), strict=True))
    assert [by_word[word] for word in spelled] == found.hashes.tolist()  # equal words, equal hash
    assert len(set(by_word.values())) == len(by_word)


def test_word_hashes_do_not_depend_on_what_stands_beside() -> None:
    alone = [word_hashes([text])[0].tolist() for text in HOSTILE]
    together = word_hashes(HOSTILE)
    assert [together[index].tolist() for index in range(len(HOSTILE))] == alone


def test_word_hashes_no_texts_is_no_words() -> None:
    assert word_hashes([]).offsets.tolist() == [0]


@pytest.mark.parametrize("size", [1, 2, 5])
@given(texts=st.lists(st.text(alphabet="ab _.é", max_size=30), max_size=5))
def test_shingles_partition_like_windows_of_words(texts: list[str], size: int) -> None:
    expected = [window for text in texts for window in windows(text, size)]
    found = shingle_hashes(word_hashes(texts), size=size)
    assert found.lengths.tolist() == [len(windows(text, size)) for text in texts]
    assert len(set(zip(expected, found.hashes.tolist(), strict=True))) == len(set(expected))
    assert len(set(found.hashes.tolist())) == len(set(expected))


def test_jaccard_equals_that_of_python_sets() -> None:
    rng = np.random.default_rng(1)
    vocabulary = [f"word{number}" for number in range(12)]
    texts = [" ".join(rng.choice(vocabulary, size=rng.integers(0, 60))) for _ in range(40)]
    found = shingle_sets(texts, size=2)
    for one in range(40):
        for other in range(40):
            left, right = set(windows(texts[one], 2)), set(windows(texts[other], 2))
            expected = len(left & right) / len(left | right) if left | right else 0.0
            assert jaccard(found[one], found[other]) == pytest.approx(expected)


def test_jaccard_worked_example() -> None:
    one, other = shingle_sets(["a b c d e f", "A, b c d e G"], size=5)
    assert jaccard(one, other) == 1 / 3  # (a b c d e) of three different shingles


def test_batches_keep_order_and_long_texts_whole() -> None:
    texts = ["aaaa", "bb", "c" * 50, "", "dd"]
    assert list(batches(texts, max_chars=6)) == [["aaaa", "bb"], ["c" * 50], ["", "dd"]]
