"""Score a model: validation loss, bits per byte and sample texts.

    python -m model.score --config <work>/config.json

Makes one artifact that holds ``scores.json``. Computes in fp32 whatever the training precision was,
so that scores of two models differ by the models alone. One process; the config is a ``ScoreRun``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from model.child_runs import ScoreRun, make_artifact, parse_config_path, run_child
from model.config import Config, ScoreConfig, Style
from model.errors import ConfigError
from model.evaluate import evaluate
from model.generate import generate, prompt_ids
from model.gpt import GPT
from model.shards import ShardSet
from model.store import Work, write_synced
from model.tokenizer import IM_END, Tokenizer
from model.weights import load_model

SCORES_NAME = "scores.json"


class Sample(Config):
    """What a model wrote after a prompt."""

    prompt: str
    text: str


class Scores(Config):
    """The content of ``scores.json``."""

    validation_loss: float
    bits_per_byte: float
    num_tokens: int
    num_bytes: int
    samples: tuple[Sample, ...]


def score(
    model: GPT,
    tokenizer: Tokenizer,
    shards: ShardSet,
    *,
    config: ScoreConfig,
    style: Style = "text",
) -> Scores:
    """Return what a model scores on validation rows, with sample texts.

    Args:
        style: what the prompts of the samples are.

    Raises:
        ConfigError: model, tokenizer and shards do not belong together.
    """
    _require_same_vocabulary(model, tokenizer, shards)
    evaluation = evaluate(
        model, shards, tokenizer.bytes_per_token, max_tokens=config.validation_tokens
    )
    return Scores(
        validation_loss=evaluation.loss,
        bits_per_byte=evaluation.bits_per_byte,
        num_tokens=evaluation.num_targets,
        num_bytes=evaluation.num_bytes,
        samples=write_samples(model, tokenizer, config=config, style=style),
    )


def write_samples(
    model: GPT, tokenizer: Tokenizer, *, config: ScoreConfig, style: Style = "text"
) -> tuple[Sample, ...]:
    """Return a text after each prompt: how a document that begins so goes on, or an answer."""
    samples = []
    for index, prompt in enumerate(config.prompts):
        written = generate(
            model,
            prompt_ids(prompt, tokenizer, style=style),
            num_tokens=config.sample_tokens,
            temperature=config.temperature,
            top_k=config.top_k,
            seed=config.seed + index,
            stop_ids={tokenizer.end_of_text_id, tokenizer.special_id(IM_END)},
        )
        samples.append(Sample(prompt=prompt, text=tokenizer.decode(written)))
    return tuple(samples)


def _require_same_vocabulary(model: GPT, tokenizer: Tokenizer, shards: ShardSet) -> None:
    if shards.tokenizer_fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            "the validation shards were made by another tokenizer",
            expected=f"tokenizer fingerprint {tokenizer.fingerprint}",
            found=shards.tokenizer_fingerprint,
            where=shards.directory,
            fix="score with the tokenizer of the shards, or write the shards again",
        )
    if model.architecture.vocab_size != tokenizer.vocab_size:
        raise ConfigError(
            "the model was made for another tokenizer",
            expected=f"a vocabulary of {tokenizer.vocab_size}, the tokenizer's",
            found=f"a vocabulary of {model.architecture.vocab_size}",
            fix="score with the tokenizer the model was trained with",
        )


def make_scores(config_path: Path) -> None:
    """Make the artifact that a ``ScoreRun`` file describes."""
    run = ScoreRun.load(config_path)

    def body(work: Work) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_model(run.path(run.model)).to(device).eval()
        tokenizer = Tokenizer.load(run.path(run.tokenizer))
        context_tokens = model.architecture.context_tokens
        shards = ShardSet(
            run.path(run.validation), context_tokens=context_tokens, loss_on=run.loss_on
        )
        scores = score(model, tokenizer, shards, config=run.score, style=run.style)
        write_synced(work.path / SCORES_NAME, scores.model_dump_json(indent=1).encode())
        work.counts |= {"tokens": scores.num_tokens, "bytes": scores.num_bytes}
        work.facts |= scores.model_dump(include={"validation_loss", "bits_per_byte"})

    make_artifact(run, body)


def main(arguments: Sequence[str] | None = None) -> int:
    """Score the model a config file names; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    return run_child(parse_config_path(arguments, description=__doc__), make_scores)


if __name__ == "__main__":
    sys.exit(main())
