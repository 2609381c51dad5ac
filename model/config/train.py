"""Configuration of a training: horizon, batch, optimizer, schedule, validation, checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from model.config.network import AttentionScope, LossOn, ModelConfig
from model.core.config import OMIT_DEFAULT, RUNTIME_ONLY, Config
from model.core.errors import ConfigError

Precision = Literal["auto", "bfloat16", "float32"]
CompileMode = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Hyperparameters:
    """The fields of ``TrainConfig`` that have defaults by model size, all of them set."""

    batch_tokens_per_step: int
    learning_rate: float
    embedding_learning_rate: float
    head_learning_rate: float
    norm_learning_rate: float
    weight_decay: float
    embedding_weight_decay: float
    head_weight_decay: float
    warmup_steps: int
    beta1: float
    beta2: float


class TrainConfig(Config):
    """Settings of the optimisation.

    Fields that are ``None`` follow from the model size: ``model.config.defaults.resolve`` fills
    them, once, before any key is made. Training only reads resolved fields.
    """

    HORIZONS: ClassVar = ("tokens", "steps", "budget_minutes", "epochs")

    tokens: int | None = Field(
        default=None,
        gt=0,
        description="horizon in training tokens; unset, with no other horizon = by model size",
    )
    steps: int | None = Field(default=None, gt=0, description="horizon in optimizer steps")
    budget_minutes: float | None = Field(
        default=None,
        gt=0,
        description="horizon in minutes of optimizer steps on this machine, whose speed is "
        "measured first; start, validation and checkpoints come on top",
    )
    epochs: Annotated[float | None, OMIT_DEFAULT] = Field(
        default=None,
        gt=0,
        description="horizon in passes over the training rows, which are counted when they are "
        "written; of a mixture, over those that are not pretraining text",
    )
    batch_tokens_per_step: int | None = Field(
        default=None,
        gt=0,
        description="tokens per optimizer step over all processes; unset = by model size",
    )
    optimizer: Literal["muon", "adamw"] = Field(
        default="muon",
        description="of the block matrices; all other parameters have AdamW either way",
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="peak rate of block matrices, with adamw of everything; unset = by model size",
    )
    embedding_learning_rate: float | None = Field(
        default=None, gt=0, description="peak rate of the embedding; unset = by model size"
    )
    head_learning_rate: float | None = Field(
        default=None, gt=0, description="peak rate of an untied head; unset = by model size"
    )
    norm_learning_rate: float | None = Field(
        default=None, gt=0, description="peak rate of norm weights; unset = by model size"
    )
    final_learning_rate_frac: float = Field(
        default=0.0, ge=0, le=1, description="learning rate at the end, as a share of the peak"
    )
    warmup_steps: int | None = Field(
        default=None, ge=0, description="steps of linear warmup from zero; unset = by model size"
    )
    decay_frac: float = Field(
        default=0.65, ge=0, le=1, description="share of the horizon, at its end, with linear decay"
    )
    weight_decay: float | None = Field(
        default=None, ge=0, description="decoupled decay of block matrices; unset = by model size"
    )
    embedding_weight_decay: float | None = Field(
        default=None,
        ge=0,
        description="decoupled decay of the embedding; unset = by model size",
    )
    head_weight_decay: float | None = Field(
        default=None, ge=0, description="decoupled decay of an untied head; unset = by model size"
    )
    momentum: float = Field(default=0.95, ge=0, lt=1, description="Muon's momentum after warmup")
    start_momentum: float = Field(
        default=0.85, ge=0, lt=1, description="Muon's momentum at the first step"
    )
    momentum_warmup_steps: int = Field(
        default=300, ge=0, description="steps over which Muon's momentum rises to its final value"
    )
    beta1: float | None = Field(
        default=None, ge=0, lt=1, description="AdamW first-moment decay; unset = by model size"
    )
    beta2: float | None = Field(
        default=None, ge=0, lt=1, description="AdamW second-moment decay; unset = by model size"
    )
    epsilon: float = Field(default=1e-10, gt=0, description="AdamW denominator floor")
    gradient_clip_norm: float = Field(default=1.0, gt=0, description="global gradient norm limit")
    spike_sigmas: float = Field(
        default=6.0,  # OLMo-core's SkipStepOptimizer
        gt=0,
        description="a step is skipped whose loss or gradient norm is this many standard "
        "deviations above the mean of the last 128 steps",
    )
    max_skipped_steps: Annotated[int, RUNTIME_ONLY] = Field(
        default=10, ge=0, description="skipped steps within 128 that do not stop training"
    )
    seed: int = Field(default=1, ge=0, lt=2**32, description="initialisation and order of rows")
    loss_on: LossOn = Field(
        default="all",
        description="targets of the loss: all tokens, or those of the shards' loss_mask",
    )
    attention: AttentionScope = Field(
        default="causal",
        description="scope of attention: all earlier tokens of the row, or those of the document",
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
        default=0,
        ge=0,
        description="training processes of each machine; 0 = one per GPU, or train.cpu_processes",
    )
    cpu_processes: Annotated[int, RUNTIME_ONLY] = Field(
        default=1,
        gt=0,
        description="training processes of a machine without a GPU; with the smallest models one "
        "per core is faster, with others they share the cores as well alone",
    )
    nodes: Annotated[int, RUNTIME_ONLY] = Field(
        default=1, gt=0, description="machines that train together, on one shared data root"
    )
    rendezvous: Annotated[str | None, RUNTIME_ONLY] = Field(
        default=None,
        description="host:port on this machine at which the others find it, if nodes > 1",
    )
    max_restarts: Annotated[int, RUNTIME_ONLY] = Field(
        default=2, ge=0, description="how often training starts again after a process of it died"
    )
    micro_batch_rows: Annotated[int, RUNTIME_ONLY] = Field(
        default=16,
        gt=0,
        description="rows per forward pass and process; halved while memory is short",
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
        default=3,
        gt=0,
        description="newest checkpoints kept on disk, beside the one with the best validation loss "
        "and the last one at constant learning rate",
    )
    log_every_steps: Annotated[int, RUNTIME_ONLY] = Field(
        default=10, gt=0, description="steps between recorded training metrics"
    )
    smoke_run: Annotated[Literal["auto", "always", "never"], RUNTIME_ONLY] = Field(
        default="auto",
        description="try a few steps, a checkpoint and a validation before training begins; auto "
        "does so before more than an hour",
    )
    extend: Annotated[Literal["auto", "never"], RUNTIME_ONLY] = Field(
        default="auto",
        description="continue from a finished training that differs in its horizon alone; the "
        "result is the same",
    )

    def with_horizon_in_steps(self) -> Self:
        """Return this config with its horizon given as ``steps`` only.

        A budget stays one: ``tasks.planning.budget`` knows what steps it buys. So do epochs, which
        the stage counts when the rows are there.

        Raises:
            ConfigError: not exactly one horizon is given, or the batch is not.
        """
        given = {name: getattr(self, name) for name in self.HORIZONS if getattr(self, name)}
        if len(given) != 1:
            raise ConfigError(
                "training needs exactly one horizon",
                expected=f"one of {', '.join(f'train.{name}' for name in self.HORIZONS)}",
                found=", ".join(f"train.{name}={value}" for name, value in given.items()) or "none",
                fix="set one of them and leave the others out",
            )
        if self.steps or self.budget_minutes or self.epochs:
            return self
        steps = math.ceil((self.tokens or 0) / batch_tokens_of(self))
        return self.model_copy(update={"tokens": None, "steps": max(1, steps)})

    def required(self, name: str) -> Any:
        """Return the value of a field that resolving has set.

        Raises:
            ConfigError: it is unset.
        """
        value = getattr(self, name)
        if value is None:
            horizons = (item for item in self.HORIZONS if getattr(self, item))
            found = [f"train.{name}=None", *(f"train.{h}={getattr(self, h)}" for h in horizons)]
            raise ConfigError(
                f"a training config is not resolved: train.{name} is unset",
                expected=f"a value of train.{name}",
                found=", ".join(found),
                fix="resolve the config with model.config.defaults.resolve() first",
            )
        return value

    def hyperparameters(self) -> Hyperparameters:
        """Return the fields that have defaults by model size.

        Raises:
            ConfigError: one of them is unset.
        """
        names = [field.name for field in fields(Hyperparameters)]
        return Hyperparameters(**{name: self.required(name) for name in names})


def batch_tokens_of(train: TrainConfig) -> int:
    """Return the tokens of an optimizer step, over all processes.

    Raises:
        ConfigError: they are unset.
    """
    return train.required("batch_tokens_per_step")


def rows_per_step(train: TrainConfig, model: ModelConfig, *, rows_per_group: int = 1) -> int:
    """Return the rows of one optimizer step, over all processes.

    Args:
        rows_per_group: rows that stay on one process.

    Raises:
        ConfigError: the batch is no whole number of rows, or its rows no multiple of processes.
    """
    rows, rest = divmod(batch_tokens_of(train), model.context_tokens)
    if rest or not rows:
        raise ConfigError(
            "a batch must be a whole number of rows",
            expected="train.batch_tokens_per_step a multiple of model.context_tokens",
            found=f"{batch_tokens_of(train)} and {model.context_tokens}",
            where="train.batch_tokens_per_step and model.context_tokens",
            fix=f"set train.batch_tokens_per_step to {max(1, rows) * model.context_tokens}",
        )
    if rows % (max(1, train.processes) * train.nodes * rows_per_group):
        raise ConfigError(
            "the rows of a batch must spread evenly over the processes",
            expected="train.batch_tokens_per_step / model.context_tokens a multiple of "
            "train.processes * train.nodes"
            + (f" * {rows_per_group}" if rows_per_group > 1 else ""),
            found=f"{rows} rows and {train.processes} processes on each of {train.nodes} machines",
            where="train.batch_tokens_per_step, train.processes and train.nodes",
            fix="change one of them",
        )
    return rows


def check_machines(train: TrainConfig) -> None:
    """Check that machines that train together have an address to meet at.

    Raises:
        ConfigError: there are several, and no ``host:port``.
    """
    host, _, port = (train.rendezvous or "").rpartition(":")
    if train.nodes > 1 and not (host and port.isdigit()):
        raise ConfigError(
            "several machines need an address to meet at",
            expected="train.rendezvous=<host>:<port>, an address of the machine the flow runs on",
            found=f"train.nodes={train.nodes} and train.rendezvous={train.rendezvous}",
            where="train.nodes and train.rendezvous",
            fix="name this machine as the others see it, with a free port, such as node-0:29400",
        )


class MixturePart(Config):
    """One set of training shards and its share of the rows."""

    shards: str = Field(description="directory of a write_shards or write_chat_shards artifact")
    weight: float = Field(default=1.0, gt=0, description="relative share of training rows")
    loss_on: LossOn | None = Field(
        default=None, description="targets of the loss in this set; unset = train.loss_on"
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
    """Where rank 0 reports metrics; all unset means events.jsonl only."""

    uri: str | None = Field(default=None, description="MLflow tracking address")
    run_id: str | None = Field(default=None, description="MLflow run that takes the metrics")
