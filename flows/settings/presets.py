"""Presets: the configuration of a whole run, one function for each choice of size."""

from __future__ import annotations

from typing import get_args

from flows.settings.config import Preset, PretrainConfig
from model.config.network import ModelConfig
from model.config.train import TrainConfig
from model.config.trained_model import ExportConfig, SamplingConfig, ScoreConfig, TalkConfig
from tasks.config.chat import ChatConfig, FinetuneConfig, PreferenceConfig
from tasks.config.corpus import (
    FilterConfig,
    ShardsConfig,
    SourceConfig,
    TokenizerConfig,
    ValidationConfig,
)
from tasks.config.evaluation import EvaluationConfig
from tasks.config.run import RegistryConfig, SweepConfig

DEMO_MESSAGES = (
    "Hello, who are you?",
    "Tell me a story about Anna.",
    "Ben found a red kite. The weather was windy.\nWhat did Ben find?",
    "Lucy and Max went to the lake. They went there by bus.\nHow did they go there?",
)
DEMO_REQUESTS = (
    "Tell me a story about Tom.",
    "Please tell me a story about Anna.",
    "Can you tell me a story about Mia?",
    "I want to hear a story about Peter.",
)
DEMO_TALK = (
    "Hello! Who are you?",
    "Can you tell me a story about Anna?",
    "What was Anna like?",
    "Goodbye!",
)


def demo() -> PretrainConfig:
    """A project-made corpus and a model of about 1M parameters: minutes on two cores."""
    return PretrainConfig(
        preset="demo",
        source=SourceConfig(kind="demo", demo_documents=18_000),
        validation=ValidationConfig(num_documents=400),
        filter=FilterConfig(min_words=20),
        tokenizer=TokenizerConfig(vocab_size=1_280, sample_bytes=4_000_000),
        shards=ShardsConfig(packing="best_fit"),  # a question never loses the story it is about
        model=ModelConfig(size="1m", context_tokens=256),
        train=TrainConfig(
            steps=1_000,
            decay_frac=0.8,  # answers come when the rate falls: docs/decisions/022-demo-recipe.md
            attention="document",  # nothing to look up in a neighbour of the same row
            batch_tokens_per_step=4_096,
            cpu_processes=2,  # 25,000 tokens/s against 14,500 (two cores of an EPYC, 2026-11-29)
            micro_batch_rows=16,
            validate_every_steps=300,
            validation_tokens=2**15,
            checkpoint_every_steps=300,
        ),
        score=ScoreConfig(
            prompts=("Tom", "One morning", "Anna was", "It was a"), temperature=0.5, top_k=20
        ),
        evaluation=EvaluationConfig(num_questions=2_000, chat_prompts=DEMO_REQUESTS),
        export=ExportConfig(  # a penalty on repetition would forbid the words that are asked for
            sampling=SamplingConfig(temperature=0.4, repetition_penalty=1.0)
        ),
        registry=RegistryConfig(name="demo-base"),
        chat=ChatConfig(
            kind="demo",
            weights={},
            max_held_out=200,
            prompts=DEMO_MESSAGES,
        ),
        finetune=_demo_finetune(),
        preference=_demo_preference(),
        then_finetune=True,
    )


def _demo_finetune() -> FinetuneConfig:
    return FinetuneConfig(
        rate_scale=0.7,
        train=TrainConfig(
            epochs=2,
            decay_frac=1.0,
            loss_on="mask",
            attention="document",
            batch_tokens_per_step=4_096,
            cpu_processes=2,
            micro_batch_rows=16,
            validate_every_steps=200,
            validation_tokens=2**15,
            checkpoint_every_steps=300,
        ),
        registry=RegistryConfig(name="demo-chat"),
        talk=TalkConfig(turns=DEMO_TALK, answer_tokens=100),
    )


def _demo_preference() -> PreferenceConfig:
    return PreferenceConfig(
        kind="demo",
        train=TrainConfig(
            epochs=1,
            optimizer="adamw",
            learning_rate=1e-4,
            batch_tokens_per_step=8_192,
            micro_batch_rows=16,
            warmup_steps=10,
            decay_frac=0.9,
            loss_on="mask",
            validate_every_steps=50,
            validation_tokens=2**16,
            checkpoint_every_steps=100,
        ),
    )


def sample() -> PretrainConfig:
    """The first 20,000 FineWeb documents: real text, laptop size."""
    return PretrainConfig(
        preset="sample",
        source=SourceConfig(max_documents=20_000),
        validation=ValidationConfig(num_documents=500),
        tokenizer=TokenizerConfig(vocab_size=8_192, sample_bytes=30_000_000),
        model=ModelConfig(size="10m"),
        train=TrainConfig(
            steps=150,
            batch_tokens_per_step=16_384,
            micro_batch_rows=4,
            validate_every_steps=50,
            validation_tokens=2**15,
            checkpoint_every_steps=50,
        ),
        score=ScoreConfig(validation_tokens=2**17),
    )


def gpu_hour() -> PretrainConfig:
    """The 135m size on 1.7B tokens: about an hour on one big GPU."""
    return PretrainConfig(
        preset="gpu-hour",
        source=SourceConfig(files="sample/10BT/00[0-3]_*.parquet"),
        model=ModelConfig(size="135m"),
        train=_big_train(tokens=1_704_000_000),
        finetune=_big_finetune(),
        then_finetune=True,
    )


def full() -> PretrainConfig:
    """All 15 shards of sample-10BT and the 135m size: about 10B tokens."""
    return PretrainConfig(
        preset="full",
        model=ModelConfig(size="135m"),
        train=_big_train(tokens=10_000_000_000),
        finetune=_big_finetune(),
        then_finetune=True,
    )


def _big_train(*, tokens: int) -> TrainConfig:
    return TrainConfig(
        tokens=tokens,
        micro_batch_rows=64,
        validate_every_steps=250,
        validation_tokens=2**21,
        checkpoint_every_steps=500,
    )


def _big_finetune() -> FinetuneConfig:
    return FinetuneConfig(
        train=TrainConfig(
            epochs=2,
            decay_frac=0.5,
            loss_on="mask",
            micro_batch_rows=64,
            validate_every_steps=100,
            validation_tokens=2**20,
            checkpoint_every_steps=200,
        )
    )


PRESETS = {"demo": demo, "sample": sample, "gpu-hour": gpu_hour, "full": full}

LADDERS = {
    "demo": SweepConfig(
        sizes=("1m", "1m", "1m", "10m"), tokens=(200_000, 400_000, 800_000, 200_000)
    ),
    "sample": SweepConfig(
        sizes=("1m", "1m", "1m", "10m"), tokens=(500_000, 1_000_000, 2_000_000, 1_000_000)
    ),
    "gpu-hour": SweepConfig(sizes=("10m", "27m", "49m", "135m")),
    "full": SweepConfig(sizes=("27m", "49m", "135m", "375m")),
}


assert set(PRESETS) == set(LADDERS) == set(get_args(Preset))
