import itertools
import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import regex
from pydantic import ValidationError
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.qwen2 import tokenization_qwen2

from model.core.errors import TokenizerError
from model.text.chat_template import CHAT_TEMPLATE
from model.text.tokenizer import MAX_VOCAB_SIZE, PRE_TOKENIZER_REGEX, SPECIAL_TOKENS, Tokenizer
from tasks.config.corpus import TokenizerConfig
from tasks.tokens.bpe import MIN_VOCAB_SIZE, BpeCounts, train_bpe
from tests.support.small_tokenizer import (
    HOSTILE_TEXTS,
    SENTENCES,
    VOCAB_SIZE,
    train_small_tokenizer,
)

FILES = ("tokenizer.json", "tokenizer_config.json", "bytes_per_token.npy")
TRAIN_IN_CHILD = """
import random
import sys
from pathlib import Path
from tasks.config.corpus import TokenizerConfig
from tasks.tokens.bpe import train_bpe
draw = random.Random(0)
texts = [" ".join("".join(draw.choices("abcdefgh", k=5)) for _ in range(20)) for _ in range(500)]
config = TokenizerConfig(vocab_size=1500)
train_bpe(iter(texts), config=config, destination=Path(sys.argv[1]))
"""  # short random words: most merges are ties


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return train_small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def train(directory, *texts, **settings):
    return train_bpe(iter(texts), config=TokenizerConfig(**settings), destination=directory)


def pair_counts(words):
    pairs = Counter()
    for word, count in words.items():
        for pair in itertools.pairwise(word):
            pairs[pair] += count
    return pairs


def merged(word, pair):
    pieces, index = [], 0
    while index < len(word):
        size = 2 if word[index : index + 2] == pair else 1
        pieces.append("".join(word[index : index + size]))
        index += size
    return tuple(pieces)


def test_train_bpe_one_word_learns_its_merges_in_order(tmp_path):
    counts = train(tmp_path, "aab aab", vocab_size=290)
    assert counts == BpeCounts(num_docs=1, num_bytes=7, num_merges=2, vocab_size=290)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("aab") == [289]
    assert tokenizer.decode_bytes([288]) == b"aa"


def test_train_bpe_every_merge_is_of_a_most_frequent_pair(directory):
    character_of = bytes_to_unicode()
    words = Counter()
    for text in SENTENCES * 3:
        for word in regex.findall(PRE_TOKENIZER_REGEX, text):
            words[tuple(character_of[value] for value in word.encode())] += 1
    merges = json.loads((directory / "tokenizer.json").read_text())["model"]["merges"]
    assert len(merges) == VOCAB_SIZE - 288
    for pair in map(tuple, merges):
        pairs = pair_counts(words)
        assert pairs[pair] == max(pairs.values())
        words = Counter({merged(word, pair): count for word, count in words.items()})


def test_train_bpe_ids_are_specials_then_bytes_then_merges(directory):
    vocab = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.__getitem__)
    assert tokens[:32] == list(SPECIAL_TOKENS)
    assert set(tokens[32:288]) == set(bytes_to_unicode().values())
    assert len(tokens) == len(set(tokens)) == VOCAB_SIZE


def test_pre_tokenizer_regex_is_the_one_of_qwen2():
    assert PRE_TOKENIZER_REGEX == tokenization_qwen2.PRETOKENIZE_REGEX


def test_train_bpe_whatever_threads_writes_the_same_bytes(tmp_path):
    for threads in ("1", "3"):
        subprocess.run(
            [sys.executable, "-c", TRAIN_IN_CHILD, str(tmp_path / threads)],
            env={**os.environ, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"},
            check=True,
        )
    for name in FILES:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()


def test_train_bpe_directory_loads_in_transformers(directory):
    peer = AutoTokenizer.from_pretrained(directory)
    assert (peer.bos_token_id, peer.eos_token_id, peer.pad_token_id) == (0, 0, 3)
    assert len(peer) == VOCAB_SIZE
    assert peer.chat_template == CHAT_TEMPLATE
    assert peer("cat").input_ids == Tokenizer.load(directory).encode("cat")
    assert peer("a<|im_end|>b").input_ids[1] == 2


def test_train_bpe_directory_beside_a_qwen3_model_still_encodes_the_same(directory, tmp_path):
    for name in FILES:
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    peer = AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.load(directory)
    for text in HOSTILE_TEXTS:
        assert peer(text, split_special_tokens=True).input_ids == ours.encode(text)


def test_train_bpe_bytes_per_token_file_counts_raw_bytes(directory):
    sizes = np.load(directory / "bytes_per_token.npy")
    assert sizes.dtype == np.int32
    assert sizes.shape == (VOCAB_SIZE,)
    assert not sizes[:32].any()
    vocab = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    assert all(sizes[index] == len(token) for token, index in vocab.items() if index >= 32)


def test_train_bpe_sample_is_cut_at_both_limits(tmp_path):
    texts = ["", "éé" * 10, "never read" * 100]
    counts = train(tmp_path, *texts, vocab_size=289, max_document_bytes=9, sample_bytes=12)
    assert (counts.num_docs, counts.num_bytes) == (2, 12)
    texts_read = ["é" * 4, "nev"]
    train(tmp_path / "same", *texts_read, vocab_size=289)
    assert Tokenizer.load(tmp_path).fingerprint == Tokenizer.load(tmp_path / "same").fingerprint


def test_train_bpe_sample_full_leaves_the_other_texts_unread(tmp_path):
    texts = iter(["aab aab", "aab", "unread"])
    config = TokenizerConfig(vocab_size=290, sample_bytes=10)
    train_bpe(texts, config=config, destination=tmp_path)
    assert list(texts) == ["unread"]


def test_train_bpe_too_little_text_raises_with_possible_merges(tmp_path):
    with pytest.raises(
        TokenizerError, match=r"expected: 12 merges(.|\n)*found: 2 merges"
    ) as raised:
        train(tmp_path, "aab aab", vocab_size=300)
    assert "at most 290" in str(raised.value)
    assert not (tmp_path / "tokenizer.json").exists()


def test_train_bpe_no_text_raises_with_counts(tmp_path):
    with pytest.raises(TokenizerError, match="0 merges possible in 0 documents of 0 bytes"):
        train(tmp_path, vocab_size=300)


def test_tokenizer_config_sizes_are_those_that_can_be_made_and_stored():
    for vocab_size in (MIN_VOCAB_SIZE, MAX_VOCAB_SIZE):
        assert TokenizerConfig(vocab_size=vocab_size).vocab_size == vocab_size
    for vocab_size in (MIN_VOCAB_SIZE - 1, MAX_VOCAB_SIZE + 1):
        with pytest.raises(ValidationError, match="vocab_size"):
            TokenizerConfig(vocab_size=vocab_size)
