"""A tokenizer trained on a few sentences, and texts that break careless tokenizers."""

from __future__ import annotations

from pathlib import Path

from tasks.config.corpus import TokenizerConfig
from tasks.tokens.bpe import train_bpe

VOCAB_SIZE = 400
SENTENCES = (
    "The cat sat on the mat, and the dog didn't mind: they're friends.",
    "In 1984 there were 12,345 cats; in 2024 there are more than 67,890.",
    "def walk(path):\n    for entry in path:\n        yield entry\n",
    "Über naïve café owners, they'll say the weather isn't what it was.",
    "日本語の文章と한국어 문장 with the English words between them.",
)
HOSTILE_TEXTS = (
    "",
    " ",
    "\n",
    "\r\n\r\n\t \n x",
    "trailing blanks   ",
    "\u00a0\u2003\u200b\u3000odd blanks\u2028\u2029\u0085end",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 ☃️",
    "日本語テキスト、中文文本。한국어",
    "e\u0301 \u00e9 \u1100\u1161 \uac00 \ufb01 \u2126",
    "مرحبا हिन्दी ไทย Ελληνικά",
    "I'M he'S WE'LL don't DON'T can’t",
    "0123456789 3.14159 ½ ² ٣ ४",
    "for(int i=0;i<10;++i){\n\tx[i] = ~y & 0xFF; // 100%\n}\n\n\n",
    "<|endoftext|><|im_start|>user\nhi<|im_end|><|pad|><|reserved_7|><|reserved_99|>",
    "\x00\x01\x1b[0m\x7f\ufeff\ufffd\U0010ffff",
    "a" * 1000,
    "=" * 500 + "\n" * 300,
    "Pneumono" + "ultra" * 200 + "microscopic",
)


def train_small_tokenizer(directory: Path) -> Path:
    """Train the small tokenizer into ``directory`` and return it."""
    texts = iter(SENTENCES * 3)
    train_bpe(texts, config=TokenizerConfig(vocab_size=VOCAB_SIZE), destination=directory)
    return directory
