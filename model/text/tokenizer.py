"""The tokenizer: byte-level BPE over bytes, with 32 reserved special tokens as its first ids.

Wraps ``tokenizer.json`` (Hugging Face layout, written by ``tasks.tokens.bpe``). Text is always
data: a special token's spelling inside a text is encoded as ordinary characters, so no document can
end itself. ``model.text.chat_template`` renders conversations.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import tokenizers

from model.core.errors import TokenizerError

END_OF_TEXT: Final = "<|endoftext|>"
IM_START: Final = "<|im_start|>"
IM_END: Final = "<|im_end|>"
PAD: Final = "<|pad|>"
SPECIAL_TOKENS: Final = (
    END_OF_TEXT,
    IM_START,
    IM_END,
    PAD,
    *(f"<|reserved_{index}|>" for index in range(28)),
)
NUM_BYTES: Final = 256
MAX_VOCAB_SIZE: Final = 2**16  # ids are stored as uint16

# Source: PRETOKENIZE_REGEX of transformers/models/qwen2/tokenization_qwen2.py (transformers 5.23);
# llama.cpp knows it as the pre-tokenizer "qwen2". Unlike for Qwen2, text is not NFC-normalised.
PRE_TOKENIZER_REGEX: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TOKENIZER_FILE: Final = "tokenizer.json"
TOKENIZER_CONFIG_FILE: Final = "tokenizer_config.json"


class Tokenizer:
    """A loaded vocabulary: text to ids and back, without loss.

    Args:
        definition: content of a ``tokenizer.json``.
    """

    def __init__(self, definition: str, *, where: object = TOKENIZER_FILE) -> None:
        try:
            self._definition: dict[str, Any] = json.loads(definition)
            self._backend = tokenizers.Tokenizer.from_str(definition)
        except Exception as exc:  # the library raises nothing narrower
            raise _unfit("the tokenizer file cannot be read", found=exc, where=where) from exc
        _require_known_form(self._definition, where=where)
        self._backend.encode_special_tokens = True  # spellings of specials in text stay text
        self.vocab_size: int = self._backend.get_vocab_size()
        self._require_stored_ids_fit(where)
        self.end_of_text_id: int = self.special_id(END_OF_TEXT)
        self.pad_id: int = self.special_id(PAD)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Return the tokenizer of a directory in Hugging Face layout."""
        path = directory / TOKENIZER_FILE
        try:
            definition = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise _unfit("the tokenizer file cannot be read", found=exc, where=path) from exc
        return cls(definition, where=path)

    def special_id(self, token: str) -> int:
        """Return the id of a special token, given by its spelling."""
        if token not in SPECIAL_TOKENS:
            raise TokenizerError(
                "not a special token", expected=", ".join(SPECIAL_TOKENS[:4]), found=repr(token)
            )
        return SPECIAL_TOKENS.index(token)

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end a text or a turn."""
        return frozenset({self.end_of_text_id, self.special_id(IM_END)})

    def require_vocab_size(self, vocab_size: int, *, where: object = None) -> None:
        """Refuse a model with a vocabulary of another size."""
        if self.vocab_size != vocab_size:
            raise TokenizerError(
                "the model was made for another tokenizer",
                expected=f"a vocabulary of {vocab_size}, the model's",
                found=f"a vocabulary of {self.vocab_size}",
                where=where,
                fix="use the tokenizer the model was trained with; do not mix files of two models",
            )

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text: ``decode(encode(text)) == text``, and nothing is added."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of many texts, encoded on the threads of the tokenizers library."""
        try:
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError as exc:
            raise TokenizerError(
                "a text cannot be encoded",
                expected="a str of valid Unicode, without lone surrogates",
                found=exc,
                fix="decode the source with errors='replace' first",
            ) from exc
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, specials spelled out; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the exact bytes of ids, specials spelled out."""
        outside = [index for index in ids if not 0 <= index < self.vocab_size]
        if outside:
            raise TokenizerError(
                "an id lies outside of the vocabulary",
                expected=f"0 <= id < {self.vocab_size}",
                found=outside[0],
                fix="use the tokenizer that made these ids",
            )
        return b"".join(self.token_bytes[index] for index in ids)

    @cached_property
    def bytes_per_token(self) -> npt.NDArray[np.int32]:
        """Return the number of bytes of text of each id; specials have none.

        Counted from raw bytes, as a token may hold part of a character.
        """
        sizes = np.array([len(token) for token in self.token_bytes], dtype=np.int32)
        sizes[: len(SPECIAL_TOKENS)] = 0
        sizes.setflags(write=False)
        return sizes

    @cached_property
    def fingerprint(self) -> str:
        """Return the sha256 of vocabulary, merges, specials and regex.

        Chat template and file layout are not part of it.
        """
        identity = {
            "vocab": self.tokens,
            "merges": self.merges,
            "specials": list(SPECIAL_TOKENS),
            "regex": PRE_TOKENIZER_REGEX,
        }
        canonical = json.dumps(identity, ensure_ascii=True, separators=(",", ":"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @cached_property
    def merges(self) -> list[list[str]]:
        """Return the merges as pairs of tokens, first learned first; older files write "a b"."""
        merges = self._definition["model"]["merges"]
        return [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in merges]

    @cached_property
    def tokens(self) -> list[str]:
        """Return the spelling of each id in the file: one of ``byte_characters`` for each byte."""
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        return sorted(vocabulary, key=vocabulary.__getitem__)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """Return the bytes of each id; those of a special token are its spelling."""
        byte_of = {char: value for value, char in enumerate(byte_characters())}
        specials = [token.encode() for token in SPECIAL_TOKENS]
        ordinary = self.tokens[len(SPECIAL_TOKENS) :]
        return specials + [bytes(byte_of[char] for char in token) for token in ordinary]

    def _require_stored_ids_fit(self, where: object) -> None:
        ids = sorted(self._backend.get_vocab(with_added_tokens=True).values())
        if ids != list(range(len(ids))) or len(ids) > MAX_VOCAB_SIZE:
            raise _unfit(
                "the vocabulary does not fit ids stored as uint16",
                expected=f"ids 0, 1, 2, … without gaps, at most {MAX_VOCAB_SIZE}",
                found=f"{len(ids)} ids, the largest {max(ids)}",
                where=where,
            )


def byte_characters() -> list[str]:
    """Return the character that stands for each byte 0..255 in a byte-level vocabulary.

    Printable bytes of Latin-1 stand for themselves, the others for U+0100 onwards, in order.
    Source: Radford et al. 2019, GPT-2 (``bytes_to_unicode`` of its encoder).

    Example:
        >>> byte_characters()[ord("A")], byte_characters()[ord(" ")]
        ('A', 'Ġ')
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [value for value in range(NUM_BYTES) if value not in printable]
    return [
        chr(value) if value in printable else chr(NUM_BYTES + others.index(value))
        for value in range(NUM_BYTES)
    ]


def _require_known_form(definition: dict[str, Any], *, where: object) -> None:
    """Refuse a file that would encode differently from ``tasks.tokens.bpe``."""
    split = {
        "type": "Split",
        "pattern": {"Regex": PRE_TOKENIZER_REGEX},
        "behavior": "Isolated",
        "invert": False,
    }
    pre_tokenizers = (definition.get("pre_tokenizer") or {}).get("pretokenizers", [])
    byte_level = pre_tokenizers[1] if len(pre_tokenizers) == 2 else {}
    model = definition.get("model") or {}
    added = [(token["id"], token["content"]) for token in definition.get("added_tokens") or []]
    checks = {
        "a byte-level BPE model": model.get("type") == "BPE"
        and not any(model.get(key) for key in ("dropout", "byte_fallback", "ignore_merges")),
        "no normalizer": definition.get("normalizer") is None,
        "Qwen2's pre-tokenizer regex": pre_tokenizers[:1] == [split],
        "byte-level pre-tokens without a prefix space": byte_level.get("type") == "ByteLevel"
        and not (byte_level.get("add_prefix_space") or byte_level.get("use_regex")),
        "our special tokens, first and alone": added == list(enumerate(SPECIAL_TOKENS)),
        "all 256 bytes": set(byte_characters()) <= set(model.get("vocab", ())),
    }
    missing = [name for name, holds in checks.items() if not holds]
    if missing:
        raise _unfit(
            "the tokenizer is of another kind",
            expected="; ".join(missing),
            found="a tokenizer.json without that",
            where=where,
        )


def _unfit(
    problem: str, *, found: object, where: object, expected: object = None
) -> TokenizerError:
    return TokenizerError(
        problem,
        expected=expected or f"a {TOKENIZER_FILE} as this project writes it",
        found=found,
        where=where,
        fix="train the tokenizer again, or use the directory of one trained by this project",
    )
