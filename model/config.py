"""Configuration of the network and what is made of it, and the base of every config.

Configs are frozen and refuse unknown keys. A field marked ``RuntimeOnly`` may change how fast or
how chattily a thing is made, never what is made: it stays out of cache keys.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class RuntimeOnly:
    """Mark a field that never changes what is made: workers, cadence, memory."""


RUNTIME_ONLY = RuntimeOnly()


class Config(BaseModel):
    """Base of every config: frozen, no unknown keys, and a part that identifies results."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def semantic(self) -> dict[str, Any]:
        """Return the fields that change what is made, JSON-ready, for cache keys."""
        plain = self.model_dump(mode="json")
        return {
            name: value.semantic() if isinstance(value, Config) else plain[name]
            for name, value in self
            if not any(
                isinstance(mark, RuntimeOnly) for mark in type(self).model_fields[name].metadata
            )
        }


LossOn = Literal["all", "mask"]
AttentionScope = Literal["causal", "document"]  # what a token sees of its row
Style = Literal["text", "chat"]
ModelSize = Literal["1m", "10m", "27m", "49m", "135m", "375m", "490m"]


class Geometry(Config):
    """Shape of one model size."""

    width: int
    num_layers: int
    num_heads: int
    head_dim: int
    mlp_width: int
    tied: bool


def _geometry(
    width: int, num_layers: int, *, mlp_width: int, head_dim: int, tied: bool
) -> Geometry:
    return Geometry(
        width=width,
        num_layers=num_layers,
        num_heads=width // head_dim,
        head_dim=head_dim,
        mlp_width=mlp_width,
        tied=tied,
    )


# MLP about 8/3 of the width, rounded up to a multiple of 128; heads of 128 from width 512 on. The
# smallest two have small vocabularies, so that a head of their own costs little:
# docs/decisions/011-small-sizes-untied.md. Without the embedding table they have 1 and 10 million.
GEOMETRIES: dict[str, Geometry] = {
    "1m": _geometry(128, 4, mlp_width=384, head_dim=32, tied=False),
    "10m": _geometry(320, 6, mlp_width=896, head_dim=64, tied=False),
    "27m": _geometry(384, 8, mlp_width=1024, head_dim=64, tied=True),
    "49m": _geometry(512, 10, mlp_width=1408, head_dim=128, tied=True),
    "135m": _geometry(768, 12, mlp_width=2048, head_dim=128, tied=False),
    "375m": _geometry(1024, 24, mlp_width=2816, head_dim=128, tied=False),
    "490m": _geometry(1280, 20, mlp_width=3584, head_dim=128, tied=False),
}


class Architecture(Geometry):
    """Everything that fixes the network: geometry, vocabulary, context and constants."""

    vocab_size: int
    context_tokens: int
    rope_theta: float
    norm_epsilon: float

    def num_params(self) -> int:
        """Count all parameters; a tied table counts once."""
        tables = (1 if self.tied else 2) * self.vocab_size * self.width
        norms = self.num_layers * (2 * self.width + 2 * self.head_dim) + self.width
        return tables + self._num_block_matrix_params() + norms

    def num_matmul_params(self) -> int:
        """Count the weights every token is multiplied by: block matrices and the head."""
        return self._num_block_matrix_params() + self.vocab_size * self.width

    def flops_per_token(self) -> int:
        """Count floating-point operations per training token, forward and backward.

        A weight costs 6: multiply and add, once forward and twice backward. Attention is counted
        full, as if no position were masked. Source: PaLM, arXiv 2204.02311, appendix B.
        """
        attention = 12 * self.num_layers * self.num_heads * self.head_dim * self.context_tokens
        return 6 * self.num_matmul_params() + attention

    def _num_block_matrix_params(self) -> int:
        attention = 4 * self.width * self.num_heads * self.head_dim
        mlp = 3 * self.width * self.mlp_width
        return self.num_layers * (attention + mlp)


class ModelConfig(Config):
    """The network, chosen by one dial."""

    size: ModelSize = Field(default="10m", description="model size by rounded parameter count")
    context_tokens: int = Field(
        default=1024,
        ge=16,
        le=8192,
        description="tokens the model sees at once; a row holds one more",
    )
    rope_theta: float = Field(
        default=10_000.0, gt=0, description="base of the rotary position frequencies"
    )
    norm_epsilon: float = Field(
        default=1e-6, gt=0, description="added to the mean square in RMSNorm"
    )

    def semantic(self) -> dict[str, Any]:
        """Return the settings with the geometry their size stands for."""
        return super().semantic() | {"geometry": GEOMETRIES[self.size].model_dump()}

    def architecture(self, vocab_size: int) -> Architecture:
        """Return the full architecture for a tokenizer of ``vocab_size`` entries."""
        return Architecture(
            **GEOMETRIES[self.size].model_dump(),
            vocab_size=vocab_size,
            **self.model_dump(exclude={"size"}),
        )


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


class MixturePart(Config):
    """One set of training shards and its share of the rows."""

    shards: str = Field(description="directory of a write_shards or write_chat_shards artifact")
    weight: float = Field(default=1.0, gt=0, description="relative share of training rows")
    loss_on: LossOn | None = Field(
        default=None, description="targets of this set that count; unset = train.loss_on"
    )


class DirectPreference(Config):
    """Direct preference optimisation, arXiv 2305.18290."""

    beta: float = Field(
        default=0.5,  # SmolLM2's small models; the paper has 0.1, for models of billions
        gt=0,
        description="weight of a reward, the log-likelihood that an answer gained over the model "
        "that training starts from; the larger, the closer the model stays to that",
    )


class TrackingConfig(Config):
    """Where rank 0 reports to; all unset means events.jsonl only."""

    uri: str | None = Field(default=None, description="MLflow tracking address")
    run_id: str | None = Field(default=None, description="MLflow run that takes the metrics")
