"""Training of the byte-level BPE tokenizer, written in the files that other runtimes load.

Writes one directory in Hugging Face layout: ``tokenizer.json``, ``tokenizer_config.json`` and
``bytes_per_token.npy`` (int32, one entry per id, specials 0). Which texts are sampled is the
caller's choice; this module limits only how much of them is read. The same texts in the same order
give the same bytes, whatever the number of threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from model.core.errors import TokenizerError
from model.text.chat_template import CHAT_TEMPLATE
from model.text.tokenizer import (
    END_OF_TEXT,
    NUM_BYTES,
    PAD,
    PRE_TOKENIZER_REGEX,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    Tokenizer,
    byte_characters,
)
from tasks.config.corpus import TokenizerConfig

MIN_VOCAB_SIZE: Final = NUM_BYTES + len(SPECIAL_TOKENS)
MIN_PAIR_COUNT: Final = 2  # a pair seen once does not generalise


@dataclass(frozen=True)
class BpeCounts:
    """Counts of the training sample and of the vocabulary."""

    num_docs: int
    num_bytes: int
    num_merges: int
    vocab_size: int


def train_bpe(texts: Iterator[str], *, config: TokenizerConfig, destination: Path) -> BpeCounts:
    """Train a byte-level BPE vocabulary of exactly ``config.vocab_size`` entries and write it.

    Ids: the special tokens, then the 256 bytes, then merges in the order they were learned.
    Of each text ``config.max_document_bytes`` are read, of all ``config.sample_bytes``.

    Args:
        texts: documents in a fixed order; consumed once.
        destination: directory that takes the files; made if missing.

    Raises:
        TokenizerError: the texts hold too few different pairs for that many entries.
    """
    sample = _Sample(texts, config=config)
    backend = _train(sample, vocab_size=config.vocab_size)
    num_merges = backend.get_vocab_size() - MIN_VOCAB_SIZE
    if backend.get_vocab_size() != config.vocab_size:
        raise TokenizerError(
            "the texts are too few for the vocabulary size",
            expected=f"{config.vocab_size - MIN_VOCAB_SIZE} merges "
            f"(tokenizer.vocab_size={config.vocab_size} less {NUM_BYTES} bytes "
            f"and {len(SPECIAL_TOKENS)} specials)",
            found=f"{num_merges} merges possible in {sample.num_docs} documents "
            f"of {sample.num_bytes} bytes",
            fix="give more text, or set tokenizer.vocab_size to at most "
            f"{num_merges + MIN_VOCAB_SIZE}",
        )
    _write(backend, destination=destination)
    return BpeCounts(
        num_docs=sample.num_docs,
        num_bytes=sample.num_bytes,
        num_merges=num_merges,
        vocab_size=config.vocab_size,
    )


class _Sample:
    """The first bytes of each text until the byte budget is spent, counted."""

    def __init__(self, texts: Iterator[str], *, config: TokenizerConfig) -> None:
        self._texts = texts
        self._config = config
        self.num_docs = 0
        self.num_bytes = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            left = self._config.sample_bytes - self.num_bytes
            raw = text.encode()[: min(left, self._config.max_document_bytes)]
            if not raw:
                continue
            self.num_docs += 1
            self.num_bytes += len(raw)
            yield raw.decode(errors="ignore")  # a character that is cut is dropped
            if self.num_bytes >= self._config.sample_bytes:
                return


def _train(texts: _Sample, *, vocab_size: int) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(PRE_TOKENIZER_REGEX), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_PAIR_COUNT,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=byte_characters(),
        show_progress=False,
    )
    backend.train_from_iterator(iter(texts), trainer=trainer)
    return backend


def _write(backend: tokenizers.Tokenizer, *, destination: Path) -> None:
    destination.mkdir(parents=True, exist_ok=True)
    backend.save(str(destination / TOKENIZER_FILE))
    # The generic class: transformers' Qwen2 class would add its own NFC normalisation.
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    (destination / TOKENIZER_CONFIG_FILE).write_text(text, encoding="utf-8")
    np.save(destination / "bytes_per_token.npy", Tokenizer.load(destination).bytes_per_token)
