"""Configuration of a training: horizon, batch, optimizer, schedule, when to look and save."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from model.config import RUNTIME_ONLY, Config, ModelConfig
from model.errors import ConfigError

Precision = Literal["auto", "bfloat16", "float32"]
CompileMode = Literal["auto", "on", "off"]


class TrainConfig(Config):
    """The optimisation: horizon, batch, AdamW, schedule, and how often to look and to save."""

    HORIZONS: ClassVar = ("tokens", "steps")

    tokens: int | None = Field(
        default=None, gt=0, description="horizon in training tokens; give this or steps, not both"
    )
    steps: int | None = Field(default=None, gt=0, description="horizon in optimizer steps")
    batch_tokens_per_step: int = Field(
        default=65_536, gt=0, description="tokens per optimizer step over all processes"
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="peak AdamW learning rate")
    final_learning_rate_frac: float = Field(
        default=0.0, ge=0, le=1, description="learning rate at the end, as a share of the peak"
    )
    warmup_steps: int = Field(default=40, ge=0, description="steps of linear warmup from zero")
    decay_frac: float = Field(
        default=0.65, ge=0, le=1, description="share of the horizon, at its end, with linear decay"
    )
    weight_decay: float = Field(default=0.1, ge=0, description="decoupled decay of matrices")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW first-moment decay")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="AdamW second-moment decay")
    epsilon: float = Field(default=1e-10, gt=0, description="AdamW denominator floor")
    gradient_clip_norm: float = Field(default=1.0, gt=0, description="global gradient norm limit")
    seed: int = Field(default=1, ge=0, lt=2**32, description="initialisation and order of rows")
    loss_on: Literal["all", "mask"] = Field(
        default="all",
        description="targets that count: all tokens, or those the shards' loss_mask marks",
    )
    precision: Precision = Field(
        default="auto",
        description="compute precision; auto takes bfloat16 where the hardware has it",
    )
    compile: Annotated[CompileMode, RUNTIME_ONLY] = Field(
        default="auto",
        description="torch.compile of training steps; auto: on CUDA, and on a CPU for runs long "
        "enough to win back the time of compiling; where it fails, steps run uncompiled",
    )
    processes: Annotated[int, RUNTIME_ONLY] = Field(
        default=0, ge=0, description="training processes; 0 = one per GPU, or one on CPU"
    )
    micro_batch_rows: Annotated[int, RUNTIME_ONLY] = Field(
        default=16, gt=0, description="rows per forward pass and process"
    )
    validate_every_steps: Annotated[int, RUNTIME_ONLY] = Field(
        default=250, gt=0, description="steps between validations"
    )
    validation_tokens: Annotated[int, RUNTIME_ONLY] = Field(
        default=2**20, gt=0, description="at most this many validation tokens at each validation"
    )
    checkpoint_every_steps: Annotated[int, RUNTIME_ONLY] = Field(
        default=500, gt=0, description="steps between checkpoints"
    )
    keep_checkpoints: Annotated[int, RUNTIME_ONLY] = Field(
        default=3, gt=0, description="newest checkpoints kept on disk"
    )
    log_every_steps: Annotated[int, RUNTIME_ONLY] = Field(
        default=10, gt=0, description="steps between recorded training metrics"
    )

    def with_horizon_in_steps(self) -> Self:
        """Return this config with its horizon given as ``steps`` only.

        Raises:
            ConfigError: not exactly one of ``tokens`` and ``steps`` is given.
        """
        given = {name: getattr(self, name) for name in self.HORIZONS if getattr(self, name)}
        if len(given) != 1:
            raise ConfigError(
                "training needs exactly one horizon",
                expected=f"one of {', '.join(f'train.{name}' for name in self.HORIZONS)}",
                found=", ".join(f"train.{name}={value}" for name, value in given.items()) or "none",
                fix="set one of them and leave the others out",
            )
        if self.steps:
            return self
        steps = math.ceil((self.tokens or 0) / self.batch_tokens_per_step)
        return self.model_copy(update={"tokens": None, "steps": max(1, steps)})


def rows_per_step(train: TrainConfig, model: ModelConfig) -> int:
    """Return the rows of one optimizer step, over all processes.

    Raises:
        ConfigError: the batch is no whole number of rows, or its rows no multiple of processes.
    """
    rows, rest = divmod(train.batch_tokens_per_step, model.context_tokens)
    if rest or not rows:
        raise ConfigError(
            "a batch must be a whole number of rows",
            expected="train.batch_tokens_per_step a multiple of model.context_tokens",
            found=f"{train.batch_tokens_per_step} and {model.context_tokens}",
            where="train.batch_tokens_per_step and model.context_tokens",
            fix=f"set train.batch_tokens_per_step to {max(1, rows) * model.context_tokens}",
        )
    if rows % max(1, train.processes):
        raise ConfigError(
            "the rows of a batch must spread evenly over the processes",
            expected="train.batch_tokens_per_step / model.context_tokens a multiple of "
            "train.processes",
            found=f"{rows} rows and {train.processes} processes",
            where="train.batch_tokens_per_step and train.processes",
            fix="change one of them",
        )
    return rows
