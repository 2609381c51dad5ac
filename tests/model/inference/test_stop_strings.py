"""stop_strings: pieces are whole characters, together the text; stop strings never show."""

from __future__ import annotations

import pytest

from model.inference.stop_strings import StopStringDetokenizer
from model.text.tokenizer import Tokenizer
from tests.support.small_model import small_tokenizer
from tests.support.small_tokenizer import HOSTILE_TEXTS


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def _pieces(stream: StopStringDetokenizer, ids: list[int]) -> list[str]:
    pieces = []
    for token in ids:
        pieces.append(stream.push(token))
        if stream.is_stopped:
            break
    return [*pieces, stream.flush()]


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_pieces_together_are_the_text(tokenizer, text):
    pieces = _pieces(StopStringDetokenizer(tokenizer), tokenizer.encode(text))
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_character_of_many_tokens_comes_whole_or_not_at_all(tokenizer):
    ids = tokenizer.encode("🦆")
    assert len(ids) == 4  # one token a byte: the small tokenizer has never seen it
    assert _pieces(StopStringDetokenizer(tokenizer), ids) == ["", "", "", "🦆", ""]
    assert _pieces(StopStringDetokenizer(tokenizer), ids[:3]) == ["", "", "", ""]


def test_bytes_that_are_no_text_become_replacement_characters(tokenizer):
    broken = [*tokenizer.encode("🦆")[:2], *tokenizer.encode("a")]
    assert "".join(_pieces(StopStringDetokenizer(tokenizer), broken)) == "\ufffda"


@pytest.mark.parametrize(
    ("text", "stop_strings", "expected"),
    [
        ("one two three", [" thr"], "one two"),
        ("one two three", ["three!", "two"], "one "),
        ("one two three", ["e t", "ne"], "o"),
        ("one two three", ["absent"], "one two three"),
        ("aaab", ["ab"], "aa"),
        ("ends with thr", ["three"], "ends with thr"),
        ("日本語の文章", ["語"], "日本"),
    ],
)
def test_text_ends_before_the_first_stop_string(tokenizer, text, stop_strings, expected):
    for ids in (tokenizer.encode(text), [i for char in text for i in tokenizer.encode(char)]):
        stream = StopStringDetokenizer(tokenizer, stop_strings=stop_strings)
        assert "".join(_pieces(stream, ids)) == expected
        assert stream.is_stopped is (expected != text)


def test_special_tokens_give_no_text(tokenizer):
    ids = [tokenizer.end_of_text_id, *tokenizer.encode("a"), tokenizer.pad_id]
    assert "".join(_pieces(StopStringDetokenizer(tokenizer), ids)) == "a"
