"""Stage tokenise: token ids of the kept documents of one file, or of the validation documents.

Duplicates are still in: they are left out when shards are written, so that one more file or another
deduplication leaves the tokens of every other file alone.
"""

from __future__ import annotations

import os
from typing import Literal

from model.core.config import Config
from model.core.outputs import Counts, Facts, OutputFile, Outputs
from model.core.store import Work
from tasks.engine.stage import ResourceShare, Stage
from tasks.stages.filter_documents import FilterDocumentsOutputs
from tasks.stages.select_validation import SelectValidationOutputs
from tasks.stages.train_tokenizer import TrainTokenizerOutputs
from tasks.tokens.encode import TOKENS_FILE, encode_file

STEP_VERSION = 1

Split = Literal["training", "validation"]


class TokeniseCounts(Counts):
    """Documents, their tokens, the first one of each included, and the bytes of their text."""

    num_docs: int
    num_tokens: int
    num_bytes: int


class TokeniseFacts(Facts):
    """What encoded, and how many documents were compared with the tokenizer's own ids."""

    encoder: str
    num_compared: int


class TokeniseOutputs(Outputs[TokeniseCounts, TokeniseFacts], stage="tokenise"):
    """The token ids of one file."""

    tokens = OutputFile(TOKENS_FILE)  # one row a document


class Tokenise(Config):
    """Which documents these are."""

    split: Split


def build(work: Work, config: Tokenise, share: ResourceShare) -> None:
    """Write tokens.arrow."""
    os.environ["RAYON_NUM_THREADS"] = str(share.threads)  # read at the first encoding
    if config.split == "validation":
        documents, file = SelectValidationOutputs.input(work, "documents").documents, ""
    else:
        filtered = FilterDocumentsOutputs.input(work, "documents")
        documents, file = filtered.part, filtered.facts.file
    counts = encode_file(
        documents,
        tokenizer_directory=TrainTokenizerOutputs.input(work, "tokenizer").directory,
        file=file,
        split=config.split,
        destination=work.path,
        threads=share.threads,
    )
    TokeniseOutputs.record(
        work,
        TokeniseCounts(
            num_docs=counts.num_docs, num_tokens=counts.num_tokens, num_bytes=counts.num_bytes
        ),
        TokeniseFacts(encoder=counts.encoder, num_compared=counts.num_compared),
    )


tokenise = Stage(TokeniseOutputs, version=STEP_VERSION, build=build)
