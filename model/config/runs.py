"""Configs and results of the child processes: training, scoring, export, conversation, speed.

    config.json   TrainRun, ScoreRun, ExportRun, TalkRun or MeasureRun, written by the stage that
                  starts ``python -m model.<package> --config <path>``
    result.json   beside the config. Of a training a TrainResult, written by rank 0 last and by
                  rename (result-<rank>.json by another process that gave up); of the others a
                  ChildResult, only if they failed: the manifest, or the measurement, says the rest

Paths in a config are relative to the data root. No torch.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError

from model.config.network import AttentionScope, LossOn, ModelConfig
from model.config.outputs import TrainModelCounts, TrainModelFacts
from model.config.train import DirectPreference, MixturePart, TrackingConfig, TrainConfig
from model.config.trained_model import ExportConfig, ScoreConfig, Style, TalkConfig
from model.core.artifact import Artifact, Derivation
from model.core.config import Config
from model.core.errors import ConfigError, LLMError
from model.core.files import write_synced
from model.core.outputs import Facts

CONFIG_NAME = "config.json"
RESULT_NAME = "result.json"
EXIT_INTERRUPTED = 75  # sysexits.h EX_TEMPFAIL: run again to continue

Checkpoint = Literal["final", "best", "last"] | int


class ConfigFile(Config):
    """A config that one process writes and another reads."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a run from a JSON file.

        Raises:
            ConfigError: the file cannot be read, or a field is missing, unknown or of a wrong type.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as exc:
            raise ConfigError(
                "the config of a child process cannot be read",
                expected=f"a JSON file with the fields of {cls.__name__}",
                found=_first_fault(exc) if isinstance(exc, ValidationError) else exc,
                where=path,
                fix="let the flow write it, or fix the named field",
            ) from exc


def _first_fault(exc: ValidationError) -> str:
    fault = exc.errors()[0]
    field = ".".join(str(part) for part in fault["loc"])
    return f"{field}: {fault['msg']}" if field else fault["msg"]


class ArtifactRun(ConfigFile):
    """A process that makes one artifact."""

    data_root: str  # directory of the artifact store
    derivation: Derivation  # of the artifact that this process makes
    tokenizer: str  # directory with tokenizer.json

    def path(self, relative: str) -> Path:
        """Return where a path of this run lies."""
        return Path(self.data_root) / relative


class TrainRun(ArtifactRun):
    """One training, resolved."""

    model: ModelConfig
    train: TrainConfig  # with its horizon in steps
    mixture: tuple[MixturePart, ...] = Field(min_length=1)  # training shards
    validation: str  # directory of the validation shards
    init_from: str | None = None  # directory with model.safetensors; unset = from scratch
    # Preference optimisation against init_from, rows 2i chosen and 2i + 1 rejected; unset =
    # next-token prediction.
    dpo: DirectPreference | None = None
    tracking: TrackingConfig = TrackingConfig()
    sample_prompts: tuple[str, ...] = ()  # of sample texts at each validation
    style: Style = "text"  # prompts begin a text, or are a user's messages
    when_parent_dies: Literal["die", "go_on"] = "die"  # of a process; Linux only

    @property
    def rows_per_group(self) -> int:
        """Rows of a row group: a pair of answers, or one row."""
        return 2 if self.dpo else 1


class ChildRun(ArtifactRun):
    """A process that reads one model and makes one artifact."""

    model: str  # directory with model.safetensors and architecture.json


class ScoreRun(ChildRun):
    """Scoring of one model."""

    validation: str  # directory of the validation shards
    items: str | None = None  # directory with items.parquet
    prompts: str | None = None  # directory with prompts.parquet
    checkpoint: Checkpoint = "final"  # the model; best, last, or the step of one beside it
    loss_on: LossOn = "all"  # targets of the validation loss
    style: Style = "text"  # of the sample prompts
    attention: AttentionScope = "causal"  # in validation rows
    score: ScoreConfig


class ExportRun(ChildRun):
    """Export of one model."""

    export: ExportConfig
    card: str = ""  # text of the model card; empty = none is written


class TalkRun(ChildRun):
    """A conversation with one exported model, whose folder holds its tokenizer, too."""

    talk: TalkConfig


class MeasureRun(ConfigFile):
    """Measuring how fast a model trains on this machine."""

    model: ModelConfig
    train: TrainConfig  # its batch, optimizer and precision; not its horizon
    vocab_size: int
    destination: str  # file that takes the Speed, written by rank 0


class Speed(Facts):
    """How fast a model trains."""

    tokens_per_second: float  # over whole optimizer steps, all processes
    step_seconds: float  # one optimizer step
    micro_batch_seconds: float  # one forward and backward pass of it
    micro_batches_per_step: int  # per process
    device: str
    precision: str
    compiling: str  # how the steps ran


class ErrorReport(Config):
    """An error as text, for a reader in another process."""

    type: str
    problem: str
    expected: str | None = None
    found: str | None = None
    where: str | None = None
    fix: str | None = None
    is_lasting: bool = False  # starting again, with nothing changed, would end the same way

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Return the report of any exception, with the parts of an ``LLMError``.

        A user can fix an ``LLMError``. Any other may follow from another process that died.
        """
        if not isinstance(error, LLMError):
            return cls(type=type(error).__name__, problem=str(error) or repr(error))
        parts = ("expected", "found", "where", "fix")
        values = {name: getattr(error, name) for name in parts}
        texts = {name: str(value) for name, value in values.items() if value is not None}
        return cls(type=type(error).__name__, problem=error.problem, is_lasting=True, **texts)


class ChildResult(Config):
    """How a process failed."""

    state: Literal["failed"] = "failed"
    error: ErrorReport


class TrainResult(Config):
    """How a training process ended."""

    state: Literal["complete", "interrupted", "failed"]
    step: int | None = None  # optimizer steps done, where training began
    artifact: Artifact | None = None  # the finished artifact, if complete
    metrics: dict[str, float] = Field(default_factory=dict)  # last value of each, if complete
    error: ErrorReport | None = None  # what went wrong, if failed
    launch: str | None = None  # torchrun's id of the launch that ended so; none without torchrun

    @property
    def is_settled(self) -> bool:
        """Whether to leave it at that: complete, interrupted on request, or a lasting error."""
        return self.state != "failed" or (self.error is not None and self.error.is_lasting)

    @classmethod
    def complete(cls, artifact: Artifact, counts: TrainModelCounts, facts: TrainModelFacts) -> Self:
        """Return the result of a finished training, from the counts and facts of its manifest."""
        return cls(state="complete", step=counts.steps, artifact=artifact, metrics=facts.metrics)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a result file."""
        return cls.model_validate_json(path.read_bytes())

    def write(self, directory: Path, *, rank: int = 0) -> None:
        """Write the result of a process atomically."""
        write_synced(directory / result_name(rank), self.model_dump_json(indent=1).encode())


def result_name(rank: int) -> str:
    """Return the name of the result file of a process."""
    return f"result-{rank}.json" if rank else RESULT_NAME


def settled_result(directory: Path, *, launch: str | None = None) -> TrainResult | None:
    """Return the settled result of a training, or of one launch of it by torchrun.

    It is rank 0's, or that of a process that gave up.
    """
    for path in [directory / RESULT_NAME, *sorted(directory.glob("result-*.json"))]:
        with contextlib.suppress(FileNotFoundError):
            result = TrainResult.load(path)
            if result.is_settled and (launch is None or result.launch == launch):
                return result
    return None
