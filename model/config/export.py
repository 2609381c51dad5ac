"""Configuration of an export: types of the weights, and how runtimes sample by default."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from model.core.config import Config


class SamplingConfig(Config):
    """How the next token is drawn where nobody says otherwise: exports and servers alike."""

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
    """The folder other runtimes load."""

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
