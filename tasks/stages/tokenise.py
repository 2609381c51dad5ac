"""Stage tokenise: the kept documents of one file, or the validation documents, as token ids.

Duplicates are still in: they are left out when shards are written, so that one more file or another
deduplication leaves the tokens of every other file alone.
"""

from __future__ import annotations

import os
from typing import Literal

from model.core.config import Config
from model.core.store import Work
from tasks.engine.stage import Share, Stage
from tasks.tokens.encode import encode_file

STEP_VERSION = 1

Split = Literal["training", "validation"]


class Tokenise(Config):
    """Which documents these are."""

    split: Split


def build(work: Work, config: Tokenise, share: Share) -> None:
    """Write tokens.arrow."""
    os.environ["RAYON_NUM_THREADS"] = str(share.threads)  # read at the first encoding
    name = "validation.parquet" if config.split == "validation" else "part.parquet"
    (documents,) = work.input_manifests("documents")
    counts = encode_file(
        work.input("documents") / name,
        tokenizer_directory=work.input("tokenizer"),
        file=documents.facts.get("file", ""),
        split=config.split,
        destination=work.path,
        threads=share.threads,
    )
    work.counts = {
        "num_docs": counts.num_docs,
        "num_tokens": counts.num_tokens,
        "num_bytes": counts.num_bytes,
    }
    work.facts = {"encoder": counts.encoder, "num_compared": counts.num_compared}


tokenise = Stage("tokenise", version=STEP_VERSION, build=build)
