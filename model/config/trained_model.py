"""Settings for a trained model: evaluation, sampling and export."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from model.core.config import Config

Style = Literal["text", "chat"]


class ScoreConfig(Config):
    """Settings of the score_model stage: validation and sample texts."""

    validation_tokens: int | None = Field(
        default=None, gt=0, description="validation tokens scored; unset = all"
    )
    prompts: tuple[str, ...] = Field(
        default=("The", "In the morning", "Once upon a time", "The most important thing about"),
        description="starts of sample texts",
    )
    sample_tokens: int = Field(default=100, gt=0, description="tokens written per sample")
    generation_tokens: int = Field(
        default=200, gt=0, description="at most this many are written of each text to be judged"
    )
    answer_tokens: int = Field(
        default=64, gt=0, description="at most this many are written of each answer to a question"
    )
    temperature: float = Field(default=0.8, ge=0, description="sampling temperature; 0 = greedy")
    top_k: int = Field(
        default=50, ge=0, description="sample among this many likeliest tokens; 0 = all"
    )
    seed: int = Field(default=1, ge=0, lt=2**32, description="seed of the texts")


class TalkConfig(Config):
    """A scripted conversation with a finished chat model."""

    turns: tuple[str, ...] = Field(
        default=(
            "Hello! Who are you?",
            "What do you like to talk about?",
            "Thank you. Goodbye!",
        ),
        description="messages of the user, in order",
    )
    answer_tokens: int = Field(default=128, gt=0, description="most tokens of an answer")
    temperature: float = Field(default=0.0, ge=0, description="sampling temperature; 0 = greedy")
    seed: int = Field(default=1, ge=0, lt=2**32, description="seed of the answers")


class SamplingConfig(Config):
    """Default sampling settings of exports and servers."""

    temperature: float = Field(
        default=0.7, ge=0, description="logits are divided by this; 0 = always the likeliest token"
    )
    top_k: int = Field(
        default=0, ge=0, description="draw among this many likeliest tokens; 0 = all"
    )
    top_p: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="draw among the fewest likeliest tokens that have this probability together",
    )
    min_p: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="leave out tokens less likely than this share of the likeliest one's",
    )
    repetition_penalty: float = Field(
        default=1.1,
        gt=0,
        description="logits of tokens that are there already are divided by this if positive, "
        "else multiplied; 1 = off (arXiv 1909.05858)",
    )


class ExportConfig(Config):
    """Settings of the folder that other runtimes load."""

    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="type of the weights in model.safetensors"
    )
    gguf: Literal["none", "float32", "float16", "bfloat16"] = Field(
        default="float32",
        description="type of the matrices in model.gguf; norms stay float32; none: no such file",
    )
    sampling: SamplingConfig = Field(
        default=SamplingConfig(), description="what runtimes sample with unless told otherwise"
    )
