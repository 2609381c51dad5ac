"""Configuration of what a trained model is scored on, and asked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from model.core.config import Config

Style = Literal["text", "chat"]


class ScoreConfig(Config):
    """What score_model measures and which texts it lets the model write."""

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
    """What a finished chat model is asked, in one conversation."""

    turns: tuple[str, ...] = Field(
        default=(
            "Hello! Who are you?",
            "What do you like to talk about?",
            "Thank you. Goodbye!",
        ),
        description="what the user says, one turn after the other",
    )
    answer_tokens: int = Field(default=128, gt=0, description="most tokens of an answer")
    temperature: float = Field(default=0.0, ge=0, description="sampling temperature; 0 = greedy")
    seed: int = Field(default=1, ge=0, lt=2**32, description="seed of the answers")
