"""Stage train_tokenizer: a byte-level BPE vocabulary, trained on a bounded sample of kept text."""

from __future__ import annotations

from importlib.metadata import version

from model.core.config import Config
from model.core.outputs import Counts, Facts, Outputs
from model.core.store import Work
from model.text.tokenizer import Tokenizer
from tasks.config.corpus import TokenizerConfig
from tasks.corpus.duckdb_connection import Limits
from tasks.corpus.text_sample import sample_text
from tasks.engine.stage import ResourceShare, Stage
from tasks.stages.filter_documents import FilterDocumentsOutputs
from tasks.stages.select_validation import SelectValidationOutputs
from tasks.tokens.bpe import train_bpe

STEP_VERSION = 1


class TrainTokenizerCounts(Counts):
    """Documents and bytes of the sample."""

    num_docs: int
    num_bytes: int


class TrainTokenizerFacts(Facts):
    """What identifies the vocabulary, and its entries."""

    fingerprint: str
    vocab_size: int


class TrainTokenizerOutputs(
    Outputs[TrainTokenizerCounts, TrainTokenizerFacts], stage="train_tokenizer"
):
    """A tokenizer; ``Tokenizer.load`` reads its directory."""


class TrainTokenizer(Config):
    """The vocabulary and the sample it is learned from."""

    tokenizer: TokenizerConfig
    seed: int


def build(work: Work, config: TrainTokenizer, share: ResourceShare) -> None:
    """Write the tokenizer in Hugging Face form, with its bytes-per-token table."""
    texts = sample_text(
        [item.part for item in FilterDocumentsOutputs.inputs(work, "part")],
        SelectValidationOutputs.input(work, "validation").documents,
        sample_bytes=config.tokenizer.sample_bytes,
        max_document_bytes=config.tokenizer.max_document_bytes,
        seed=config.seed,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    counts = train_bpe(texts, config=config.tokenizer, destination=work.path)
    TrainTokenizerOutputs.record(
        work,
        TrainTokenizerCounts(num_docs=counts.num_docs, num_bytes=counts.num_bytes),
        TrainTokenizerFacts(
            fingerprint=Tokenizer.load(work.path).fingerprint, vocab_size=counts.vocab_size
        ),
    )


train_tokenizer = Stage(
    TrainTokenizerOutputs,
    version=STEP_VERSION,
    build=build,
    scope="corpus",
    algorithms={"tokenizers": ".".join(version("tokenizers").split(".")[:2])},
)
