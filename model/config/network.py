"""Configuration of the network: model sizes and their architectures."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from model.core.config import Config

LossOn = Literal["all", "mask"]
AttentionScope = Literal["causal", "document"]  # within a row
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
# docs/decisions/011-small-sizes-untied.md. Without the embedding they have 1 and 10 million.
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
        """Count all parameters; a tied embedding counts once."""
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
    """Settings of the network."""

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
        """Return the settings with the geometry of their size."""
        return super().semantic() | {"geometry": GEOMETRIES[self.size].model_dump()}

    def architecture(self, vocab_size: int) -> Architecture:
        """Return the full architecture for a tokenizer of ``vocab_size`` entries."""
        return Architecture(
            **GEOMETRIES[self.size].model_dump(),
            vocab_size=vocab_size,
            **self.model_dump(exclude={"size"}),
        )
