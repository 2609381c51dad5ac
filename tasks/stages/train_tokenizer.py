"""Stage train_tokenizer: a byte-level BPE vocabulary from a bounded sample of kept text."""

from __future__ import annotations

from importlib.metadata import version

from model.core.config import Config
from model.core.store import Work
from model.text.tokenizer import Tokenizer
from tasks.config.corpus import TokenizerConfig
from tasks.corpus.duckdb_connection import Limits
from tasks.corpus.text_sample import sample_text
from tasks.engine.stage import Share, Stage
from tasks.tokens.bpe import train_bpe

STEP_VERSION = 1


class TrainTokenizer(Config):
    """The vocabulary and the sample it is learned from."""

    tokenizer: TokenizerConfig
    seed: int


def build(work: Work, config: TrainTokenizer, share: Share) -> None:
    """Write the tokenizer in Hugging Face form, with its bytes-per-token table."""
    texts = sample_text(
        [path / "part.parquet" for path in work.inputs("part")],
        work.input("validation") / "validation.parquet",
        sample_bytes=config.tokenizer.sample_bytes,
        max_document_bytes=config.tokenizer.max_document_bytes,
        seed=config.seed,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    counts = train_bpe(texts, config=config.tokenizer, destination=work.path)
    work.counts = {"num_docs": counts.num_docs, "num_bytes": counts.num_bytes}
    work.facts = {
        "fingerprint": Tokenizer.load(work.path).fingerprint,
        "vocab_size": counts.vocab_size,
    }


train_tokenizer = Stage(
    "train_tokenizer",
    version=STEP_VERSION,
    build=build,
    scope="corpus",
    algorithms={"tokenizers": ".".join(version("tokenizers").split(".")[:2])},
)
