"""Score a model: bits per byte, evaluation sets, and generated texts for judging.

    python -m model.eval --config <work>/config.json

Makes one artifact. Computes in fp32 whatever the training precision, so that scores compare models
and not precisions. One process; the config is a ``ScoreRun``.

    scores.json           Scores
    item_scores.parquet   log-likelihood of every answer, if there are items
    generations.parquet   generated texts, if there are prompts
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from model.config.network import AttentionScope
from model.config.outputs import (
    ITEMS_SUFFIX,
    ScoreModelCounts,
    ScoreModelFacts,
    ScoreModelOutputs,
    TrainModelOutputs,
)
from model.config.runs import Checkpoint, ScoreRun
from model.config.trained_model import ScoreConfig, Style
from model.core.config import Config
from model.core.errors import ConfigError
from model.core.files import write_synced
from model.core.store import Work
from model.data.items import ITEMS_NAME, read_items
from model.data.prompts import PROMPTS_NAME, read_prompts, write_generations
from model.data.shards import ShardSet
from model.eval.generations import generate_texts
from model.eval.multiple_choice import TaskScore, score_items, summarise, write_item_scores
from model.eval.validation import evaluate
from model.inference.generate import generate, prompt_ids
from model.network.gpt import GPT
from model.network.weights import load_model
from model.runtime.child_process import make_artifact, parse_config_path, run_child
from model.text.tokenizer import Tokenizer
from model.train.checkpoint import Checkpoints


class GeneratedSample(Config):
    """A prompt and the text generated after it."""

    prompt: str
    text: str


class Scores(Config):
    """The content of ``scores.json``."""

    validation_loss: float
    bits_per_byte: float
    num_tokens: int
    num_bytes: int
    samples: tuple[GeneratedSample, ...]
    tasks: tuple[TaskScore, ...] = ()


def score(
    model: GPT,
    tokenizer: Tokenizer,
    shards: ShardSet,
    *,
    config: ScoreConfig,
    style: Style = "text",
    attention: AttentionScope = "causal",
) -> Scores:
    """Return the scores of a model on validation rows, with sample texts.

    Args:
        style: of the samples' prompts: openings of a text, or messages of a user.
        attention: scope of attention in the rows.
    """
    _require_same_tokenizer(tokenizer, shards)
    tokenizer.require_vocab_size(model.architecture.vocab_size)
    evaluation = evaluate(
        model,
        shards,
        tokenizer.bytes_per_token,
        attention=attention,
        max_tokens=config.validation_tokens,
    )
    return Scores(
        validation_loss=evaluation.loss,
        bits_per_byte=evaluation.bits_per_byte,
        num_tokens=evaluation.num_targets,
        num_bytes=evaluation.num_bytes,
        samples=generate_samples(model, tokenizer, config=config, style=style),
    )


def generate_samples(
    model: GPT, tokenizer: Tokenizer, *, config: ScoreConfig, style: Style = "text"
) -> tuple[GeneratedSample, ...]:
    """Return a sample for each prompt: a continuation, or an answer."""
    samples = []
    for index, prompt in enumerate(config.prompts):
        output_ids = generate(
            model,
            prompt_ids(prompt, tokenizer, style=style),
            num_tokens=config.sample_tokens,
            temperature=config.temperature,
            top_k=config.top_k,
            seed=config.seed + index,
            stop_ids=tokenizer.stop_ids,
        )
        samples.append(GeneratedSample(prompt=prompt, text=tokenizer.decode(output_ids)))
    return tuple(samples)


def _require_same_tokenizer(tokenizer: Tokenizer, shards: ShardSet) -> None:
    if shards.tokenizer_fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            "the validation shards were made with another tokenizer",
            expected=f"tokenizer fingerprint {tokenizer.fingerprint}",
            found=shards.tokenizer_fingerprint,
            where=shards.directory,
            fix="score with the tokenizer of the shards, or rewrite the shards",
        )


def make_scores(config_path: Path) -> None:
    """Make the artifact that a ``ScoreRun`` file describes."""
    run = ScoreRun.load(config_path)

    def body(work: Work) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        directory, step = weights_directory(run.path(run.model), run.checkpoint)
        model = load_model(directory).to(device).eval()
        tokenizer = Tokenizer.load(run.path(run.tokenizer))
        context_tokens = model.architecture.context_tokens
        shards = ShardSet(
            run.path(run.validation), context_tokens=context_tokens, loss_on=run.loss_on
        )
        scores = score(
            model, tokenizer, shards, config=run.score, style=run.style, attention=run.attention
        )
        outputs = ScoreModelOutputs(work.path)
        if run.items:
            items = read_items(run.path(run.items) / ITEMS_NAME)
            scored = score_items(model, tokenizer, items)
            write_item_scores(outputs.item_scores, scored)
            scores = scores.model_copy(update={"tasks": summarise(scored)})
        num_generations = None
        if run.prompts:
            prompts = read_prompts(run.path(run.prompts) / PROMPTS_NAME)
            generations = generate_texts(model, tokenizer, prompts, config=run.score)
            write_generations(outputs.generations, generations)
            num_generations = len(generations)
        write_synced(outputs.scores, scores.model_dump_json(indent=1).encode())
        _record(work, scores, num_generations=num_generations, step=step)

    make_artifact(run, body)


def _record(work: Work, scores: Scores, *, num_generations: int | None, step: int | None) -> None:
    """Record the scores; absent where there were no items or prompts."""
    num_items = {f"{task.task}{ITEMS_SUFFIX}": task.num_items for task in scores.tasks}
    of_sets: dict[str, float | str] = {}
    for task in scores.tasks:
        of_sets |= task.facts() | {f"{task.task}{ITEMS_SUFFIX}": task.items_digest}
    ScoreModelOutputs.record(
        work,
        ScoreModelCounts(
            **num_items,
            **({} if num_generations is None else {"generations": num_generations}),
            tokens=scores.num_tokens,
            bytes=scores.num_bytes,
        ),
        ScoreModelFacts.model_validate(
            of_sets
            | scores.model_dump(include={"validation_loss", "bits_per_byte"})
            | ({} if step is None else {"checkpoint_step": step})
        ),
    )


def weights_directory(model: Path, checkpoint: Checkpoint) -> tuple[Path, int | None]:
    """Return the directory of the weights to score, and the step of a checkpoint.

    Args:
        model: directory of the finished model; its siblings are checkpoints.
    """
    if checkpoint == "final":
        return model, None
    kept = Checkpoints(TrainModelOutputs(model.parent).checkpoints, derivation_key="", keep=0)
    steps = kept.steps()
    step = {"best": kept.best(), "last": max(steps, default=None)}.get(str(checkpoint), checkpoint)
    if step not in steps:
        raise ConfigError(
            "a checkpoint to score does not exist",
            expected=f"best, last, or a kept step: {', '.join(map(str, steps)) or 'none'}",
            found=checkpoint,
            where=kept.directory,
            fix="correct evaluation.checkpoints; train.keep_checkpoints says how many are kept",
        )
    return kept.path(int(step)), int(step)


def main(arguments: Sequence[str] | None = None) -> int:
    """Score the model a config file names; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    return run_child(parse_config_path(arguments, description=__doc__), make_scores)


if __name__ == "__main__":
    sys.exit(main())
