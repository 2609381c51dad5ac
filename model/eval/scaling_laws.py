"""Scaling laws: predicted validation loss of a model size after a number of tokens.

Two sources, never mixed: a curve of bits per byte over compute, fitted by
``tasks.stages.fit_scaling`` to a *ladder* of trainings on the same validation rows; or published
constants, which are rough, as they are for other text, another tokenizer and larger models. Their
predictions are marked as stated.

    fit.json   ScalingFit, written by the fit_scaling stage
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from model.config.network import ModelSize
from model.core.config import Config

FIT_NAME = "fit.json"


@dataclass(frozen=True)
class Prediction:
    """A predicted validation score, and its range where the source has a spread."""

    bits_per_byte: float
    low: float | None
    high: float | None
    kind: Literal["fitted", "stated"]  # fitted to a ladder, or from published constants
    source: str  # description for readers

    def text(self) -> str:
        """Return the figure, its range and its source."""
        spread = ""
        if self.low is not None and self.high is not None:
            spread = f", between {self.low:.4f} and {self.high:.4f}"
        return f"{self.bits_per_byte:.4f} bits per byte{spread} ({self.source})"


class LadderPoint(Config):
    """One finished training of a ladder."""

    name: str
    size: ModelSize
    num_params: int
    tokens: int = Field(description="training tokens")
    flops: float = Field(description="floating-point operations of the whole training")
    bits_per_byte: float = Field(description="validation score at the end")
    is_on_frontier: bool = Field(description="no training with less compute scored as low")


class ScalingCurve(Config):
    """Bits per byte over compute: ``floor + factor * (flops / reference_flops) ** -exponent``."""

    floor: float = Field(ge=0, description="irreducible bits per byte")
    factor: float = Field(ge=0, description="reducible bits per byte at the reference")
    exponent: float = Field(gt=0)
    reference_flops: float = Field(gt=0)

    def at(self, flops: float) -> float:
        """Return the bits per byte at a compute budget."""
        return self.floor + self.factor * (flops / self.reference_flops) ** -self.exponent


class NextRung(Config):
    """The training after the last of a ladder, and its predicted score."""

    size: ModelSize
    tokens: int
    flops: float
    bits_per_byte: float | None = Field(description="null where no curve could be fitted")
    low: float | None
    high: float | None


class ScalingFit(Config):
    """A curve through the trainings of a ladder, with its uncertainty."""

    form: str = Field(description="the fitted formula; C is compute in FLOPs")
    why: str = Field(description="why this form, or why there is no curve")
    curve: ScalingCurve | None
    alternatives: tuple[ScalingCurve, ...] = Field(
        description="fits without each of the trainings, and of the other form: their predictions "
        "span the range that is given with a figure"
    )
    points: tuple[LadderPoint, ...]
    degrees_of_freedom: int = Field(description="trainings on the frontier less fitted constants")
    residual_bits_per_byte: float | None = Field(
        description="root mean square of what the curve leaves, per degree of freedom; null where "
        "the curve interpolates all points"
    )
    next_rung: NextRung | None

    def predict(self, flops: float, *, source: str) -> Prediction | None:
        """Return the prediction of the ladder ``source`` for a compute budget, if it has a fit."""
        if self.curve is None:
            return None
        value = self.curve.at(flops)
        low, high = self.span(flops)
        extrapolation = _extrapolation(flops, [point.flops for point in self.points])
        num_used = sum(point.is_on_frontier for point in self.points)
        text = f"{source}: {self.form} through {num_used} trainings{extrapolation}"
        return Prediction(value, low, high, "fitted", text)

    def span(self, flops: float) -> tuple[float | None, float | None]:
        """Return the lowest and highest prediction of the curve and its alternatives."""
        if self.curve is None or not self.alternatives:
            return None, None
        values = [curve.at(flops) for curve in (self.curve, *self.alternatives)]
        return min(values), max(values)


def _extrapolation(flops: float, known: list[float]) -> str:
    """Describe the distance of a prediction outside of the ladder's range."""
    least, most = min(known), max(known)
    if flops > most:
        return f", {flops / most:.1f}x the compute of the largest"
    if flops < least:
        return f", {flops / least:.2g}x the compute of the smallest"
    return ""


@dataclass(frozen=True)
class PublishedLaw:
    """Nats per token as ``floor + a / params ** alpha + b / tokens ** beta``."""

    floor: float
    a: float
    alpha: float
    b: float
    beta: float

    def nats_per_token(self, *, num_params: int, num_tokens: int) -> float:
        """Return the loss for a number of parameters and training tokens."""
        return self.floor + self.a / num_params**self.alpha + self.b / num_tokens**self.beta


# Hoffmann et al., arXiv 2203.15556, approach 3: models of 70M to 16B parameters on 5B to 500B
# tokens of MassiveText. Besiroglu et al., arXiv 2404.10102, refitted the same runs.
CHINCHILLA = PublishedLaw(floor=1.69, a=406.4, alpha=0.34, b=410.7, beta=0.28)
CHINCHILLA_REFIT = PublishedLaw(floor=1.8172, a=482.01, alpha=0.3478, b=2085.43, beta=0.3658)
CHINCHILLA_LEAST_PARAMS = 70_000_000
CHINCHILLA_LEAST_TOKENS = 5_000_000_000


def stated_prediction(
    *, num_params: int, num_tokens: int, vocab_size: int, bytes_per_token: float
) -> Prediction | None:
    """Return the prediction of published constants, or ``None`` where they are useless.

    They are nats per token of another tokenizer on other text. The figure is that of the second
    fit, the range that of both: they diverge outside of the fitted sizes. Far below those, both
    predict a loss above that of a uniform distribution, which is the ``None`` case.

    Args:
        bytes_per_token: of our tokenizer, to convert nats per token to bits per byte.
    """
    laws = (CHINCHILLA_REFIT, CHINCHILLA)
    nats = [law.nats_per_token(num_params=num_params, num_tokens=num_tokens) for law in laws]
    if max(nats) >= math.log(vocab_size):
        return None
    bits = [value / math.log(2) / bytes_per_token for value in nats]
    text = "stated: Chinchilla's law (arXiv 2203.15556, 2404.10102), for other text"
    shares = {
        "parameters": CHINCHILLA_LEAST_PARAMS / num_params,
        "tokens": CHINCHILLA_LEAST_TOKENS / num_tokens,
    }
    below = [f"{share:.1f}x in {what}" for what, share in shares.items() if share > 1]
    if below:
        text += f", {' and '.join(below)} below the runs it was fitted on: rough"
    return Prediction(bits[0], min(bits), max(bits), "stated", text)
