"""What a training process is given and what it answers: two JSON files, no torch.

    config.json   TrainRun, written by whoever starts ``python -m model.train --config <path>``
    result.json   TrainResult, written by rank 0 beside the config, last and by rename;
                  result-<rank>.json where another process had to give up

The flow writes the first and reads the second; ``model.train`` does the opposite.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError

from model.config.evaluation import Style
from model.config.network import ModelConfig
from model.config.outputs import TrainModelCounts, TrainModelFacts
from model.config.train import DirectPreference, MixturePart, TrackingConfig, TrainConfig
from model.core.artifact import Artifact, Derivation
from model.core.config import Config
from model.core.errors import ConfigError, LLMError
from model.core.files import write_synced

RESULT_NAME = "result.json"
EXIT_INTERRUPTED = 75  # sysexits.h EX_TEMPFAIL: run it again and it goes on


class TrainRun(Config):
    """One training, resolved. Paths are relative to the data root."""

    data_root: str = Field(description="directory of the artifact store")
    derivation: Derivation = Field(description="of the train_model artifact that this run makes")
    model: ModelConfig
    train: TrainConfig = Field(description="with its horizon in steps")
    tokenizer: str = Field(description="directory with tokenizer.json")
    mixture: tuple[MixturePart, ...] = Field(min_length=1, description="training shards")
    validation: str = Field(description="directory of the validation shards")
    init_from: str | None = Field(
        default=None,
        description="directory with model.safetensors to start from; unset = from scratch",
    )
    dpo: DirectPreference | None = Field(
        default=None,
        description="learn from pairs of answers, rows 2i chosen and 2i + 1 rejected, against "
        "init_from; unset = learn the next token",
    )
    tracking: TrackingConfig = TrackingConfig()
    sample_prompts: tuple[str, ...] = Field(
        default=(), description="what the model writes after at each validation"
    )
    style: Style = Field(
        default="text",
        description="prompts begin a text, or are what a user says to the model",
    )
    when_parent_dies: Literal["die", "go_on"] = Field(
        default="die",
        description="what a process does whose parent is gone; only Linux can die with it",
    )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a run from a JSON file.

        Raises:
            ConfigError: the file cannot be read, or a field is missing, unknown or of a wrong type.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as exc:
            raise _unreadable(path, found=_first_fault(exc)) from exc
        except OSError as exc:
            raise _unreadable(path, found=exc) from exc

    @property
    def rows_per_group(self) -> int:
        """Rows that belong together: a pair of answers, or each row by itself."""
        return 2 if self.dpo else 1

    def path(self, relative: str) -> Path:
        """Return where a path of this run lies."""
        return Path(self.data_root) / relative


def _first_fault(exc: ValidationError) -> str:
    fault = exc.errors()[0]
    field = ".".join(str(part) for part in fault["loc"])
    return f"{field}: {fault['msg']}" if field else fault["msg"]


def _unreadable(path: Path, *, found: object) -> ConfigError:
    return ConfigError(
        "the training config cannot be read",
        expected="a JSON file with the fields of TrainRun",
        found=found,
        where=path,
        fix="let the flow write it, or mend the named field",
    )


class ErrorReport(Config):
    """An error as text, for a reader in another process."""

    type: str
    problem: str
    expected: str | None = None
    found: str | None = None
    where: str | None = None
    fix: str | None = None
    is_lasting: bool = Field(
        default=False, description="starting again, with nothing changed, would end the same way"
    )

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Return the report of any exception; the parts of an ``LLMError`` stay apart.

        An ``LLMError`` is for its reader to mend. Any other may be the echo of a process that died.
        """
        if not isinstance(error, LLMError):
            return cls(type=type(error).__name__, problem=str(error) or repr(error))
        parts = ("expected", "found", "where", "fix")
        values = {name: getattr(error, name) for name in parts}
        texts = {name: str(value) for name, value in values.items() if value is not None}
        return cls(type=type(error).__name__, problem=error.problem, is_lasting=True, **texts)


class TrainResult(Config):
    """How a training process ended."""

    state: Literal["complete", "interrupted", "failed"]
    step: int | None = Field(default=None, description="optimizer steps done, where training began")
    artifact: Artifact | None = Field(
        default=None, description="the finished artifact, if complete"
    )
    metrics: dict[str, float] = Field(
        default_factory=dict, description="last value of each metric, if complete"
    )
    error: ErrorReport | None = Field(default=None, description="what went wrong, if failed")
    launch: str | None = Field(
        default=None, description="torchrun's id of the launch that ended so; none without torchrun"
    )

    @property
    def is_settled(self) -> bool:
        """Whether starting again would change nothing, or was asked not to happen."""
        return self.state != "failed" or (self.error is not None and self.error.is_lasting)

    @classmethod
    def complete(cls, artifact: Artifact, counts: TrainModelCounts, facts: TrainModelFacts) -> Self:
        """Return the result of a finished training, from the counts and facts of its manifest."""
        return cls(state="complete", step=counts.steps, artifact=artifact, metrics=facts.metrics)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a result; a missing file is the caller's to interpret."""
        return cls.model_validate_json(path.read_bytes())

    def write(self, directory: Path, *, rank: int = 0) -> None:
        """Write the result of a process whole or not at all."""
        write_synced(directory / result_name(rank), self.model_dump_json(indent=1).encode())


def result_name(rank: int) -> str:
    """Return the name of the file in which a process says how it ended."""
    return f"result-{rank}.json" if rank else RESULT_NAME


def settled_result(directory: Path, *, launch: str | None = None) -> TrainResult | None:
    """Return what a training's processes settled: rank 0's word, or that of one that gave up.

    Args:
        directory: of the config.
        launch: only what this launch of torchrun settled.
    """
    paths = [directory / RESULT_NAME, *sorted(directory.glob("result-*.json"))]
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            result = TrainResult.load(path)
            if result.is_settled and (launch is None or result.launch == launch):
                return result
    return None
