import itertools
import json

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from model.core.errors import TokenizerError
from model.text.tokenizer import PRE_TOKENIZER_REGEX, SPECIAL_TOKENS, Tokenizer, byte_characters
from tests.support.small_tokenizer import HOSTILE_TEXTS, VOCAB_SIZE, train_small_tokenizer


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return train_small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(directory):
    return Tokenizer.load(directory)


@pytest.fixture(scope="module")
def peer(directory):
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture
def edit(directory, tmp_path):
    """Write a changed copy of tokenizer.json and return its directory."""

    def write(change):
        definition = json.loads((directory / "tokenizer.json").read_text())
        change(definition)
        (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
        return tmp_path

    return write


def naive_ids(definition, text):
    """Encode by the book: split with the regex, then apply the lowest-ranked merge to the end."""
    vocab = definition["model"]["vocab"]
    rank = {tuple(pair): number for number, pair in enumerate(definition["model"]["merges"])}
    character_of = bytes_to_unicode()
    ids = []
    for word in regex.findall(PRE_TOKENIZER_REGEX, text):
        pieces = [character_of[value] for value in word.encode()]
        while True:
            pairs = {pair: rank[pair] for pair in itertools.pairwise(pieces) if pair in rank}
            if not pairs:
                break
            best = min(pairs, key=pairs.__getitem__)
            merged, index = [], 0
            while index < len(pieces):
                if tuple(pieces[index : index + 2]) == best:
                    merged.append("".join(best))
                    index += 2
                else:
                    merged.append(pieces[index])
                    index += 1
            pieces = merged
        ids += [vocab[piece] for piece in pieces]
    return ids


def test_tokenizer_loaded_small_reserves_the_first_ids(tokenizer):
    assert tokenizer.vocab_size == VOCAB_SIZE
    assert (tokenizer.end_of_text_id, tokenizer.pad_id) == (0, 3)
    assert [tokenizer.special_id(token) for token in SPECIAL_TOKENS] == list(range(32))
    assert tokenizer.encode("") == []
    assert tokenizer.decode([1, *tokenizer.encode("cat"), 2]) == "<|im_start|>cat<|im_end|>"


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_encode_hostile_text_equals_bpe_by_the_book(directory, tokenizer, text):
    definition = json.loads((directory / "tokenizer.json").read_text())
    assert tokenizer.encode(text) == naive_ids(definition, text)


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_encode_hostile_text_equals_transformers(tokenizer, peer, text):
    assert tokenizer.encode(text) == peer(text, split_special_tokens=True)["input_ids"]


def test_decode_any_ids_equals_transformers(tokenizer, peer):
    ids = np.random.default_rng(0).integers(0, VOCAB_SIZE, size=(50, 12)).tolist()
    assert [tokenizer.decode(row) for row in ids] == peer.batch_decode(ids)


@settings(deadline=None)
@given(st.text())
def test_decode_of_encode_any_text_returns_it(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.bytes_per_token[ids].sum() == len(text.encode())


@settings(deadline=None)
@given(st.lists(st.sampled_from(SPECIAL_TOKENS) | st.text(), max_size=6).map("".join))
def test_encode_spelled_specials_stay_ordinary_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert min(ids, default=32) >= 32
    assert tokenizer.decode(ids) == text


def test_encode_batch_many_texts_equals_one_by_one(tokenizer):
    ids = tokenizer.encode_batch(HOSTILE_TEXTS)
    assert ids == [tokenizer.encode(text) for text in HOSTILE_TEXTS]


def test_byte_characters_all_equal_transformers():
    assert dict(enumerate(byte_characters())) == bytes_to_unicode()


def test_encode_lone_surrogate_raises_tokenizer_error(tokenizer):
    with pytest.raises(TokenizerError, match="lone surrogates"):
        tokenizer.encode("a\ud800b")


@pytest.mark.parametrize("bad_id", [-1, VOCAB_SIZE])
def test_decode_id_outside_vocabulary_raises_with_limits(tokenizer, bad_id):
    with pytest.raises(TokenizerError, match=rf"0 <= id < 400\n  found: {bad_id}"):
        tokenizer.decode([40, bad_id])


def test_special_id_of_unknown_token_raises(tokenizer):
    with pytest.raises(TokenizerError, match="not a special token"):
        tokenizer.special_id("<|nothing|>")


def test_fingerprint_other_template_and_layout_stays(directory, tokenizer, edit):
    copy = edit(lambda definition: definition["model"].update(unk_token=None))
    (copy / "tokenizer_config.json").write_text('{"chat_template": "other"}')
    assert (copy / "tokenizer.json").read_bytes() != (directory / "tokenizer.json").read_bytes()
    assert Tokenizer.load(copy).fingerprint == tokenizer.fingerprint


def test_fingerprint_other_merge_order_changes(tokenizer, edit):
    copy = edit(lambda definition: definition["model"]["merges"].reverse())
    assert Tokenizer.load(copy).fingerprint != tokenizer.fingerprint


def test_fingerprint_other_token_ids_changes(tokenizer, edit):
    def swap(definition):
        vocab = definition["model"]["vocab"]
        vocab["!"], vocab['"'] = vocab['"'], vocab["!"]

    assert Tokenizer.load(edit(swap)).fingerprint != tokenizer.fingerprint


def test_load_missing_directory_raises_with_path(tmp_path):
    with pytest.raises(TokenizerError, match=r"cannot be read(.|\n)*where: .*tokenizer\.json"):
        Tokenizer.load(tmp_path / "nothing")


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": {}}', "[]"])
def test_load_broken_file_raises_tokenizer_error(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match="cannot be read"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(normalizer={"type": "NFC"}), "no normalizer"),
        (lambda d: d["model"].update(ignore_merges=True), "a byte-level BPE model"),
        (lambda d: d["model"].update(dropout=0.1), "a byte-level BPE model"),
        (lambda d: d.update(pre_tokenizer=None), "Qwen2's pre-tokenizer regex"),
        (
            lambda d: d["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
            "without a prefix space",
        ),
        (lambda d: d["added_tokens"].pop(), "our special tokens"),
    ],
)
def test_load_other_kind_of_tokenizer_raises_naming_what_is_missing(edit, change, words):
    with pytest.raises(TokenizerError, match=words):
        Tokenizer.load(edit(change))


def test_load_more_entries_than_uint16_raises(edit):
    def grow(definition):
        vocab = definition["model"]["vocab"]
        vocab.update({f"Ā{number}": number for number in range(len(vocab), 2**16 + 1)})

    with pytest.raises(TokenizerError, match=r"uint16(.|\n)*65537 ids"):
        Tokenizer.load(edit(grow))
