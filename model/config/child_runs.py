"""What the scoring, exporting and measuring processes are given, and how they end. No torch.

    config.json   ScoreRun, ExportRun, TalkRun or MeasureRun, written by whoever starts ``python
                  -m model.eval``, ``model.export``, ... with ``--config <path>``
    result.json   ChildResult, beside the config, only if the process failed: when it succeeds, the
                  artifact's manifest, or the measurement, says so

The config may lie in the artifact's work directory; neither file counts as content.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError

from model.config.evaluation import ScoreConfig, Style, TalkConfig
from model.config.export import ExportConfig
from model.config.network import AttentionScope, LossOn, ModelConfig
from model.config.train import TrainConfig
from model.config.train_run import RESULT_NAME, ErrorReport
from model.core.artifact import Derivation
from model.core.config import Config
from model.core.errors import ConfigError, LLMError
from model.core.files import write_synced
from model.core.outputs import Facts
from model.core.store import ArtifactStore, Work, check_sha256, check_sizes

logger = logging.getLogger(__name__)

CONFIG_NAME = "config.json"


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
                found=exc,
                where=path,
                fix="let the flow write it, or mend the named field",
            ) from exc


class ChildRun(ConfigFile):
    """One process that makes one artifact. Paths are relative to the data root."""

    data_root: str = Field(description="directory of the artifact store")
    derivation: Derivation = Field(description="of the artifact that this process makes")
    model: str = Field(description="directory with model.safetensors and architecture.json")
    tokenizer: str = Field(description="directory with tokenizer.json")

    def path(self, relative: str) -> Path:
        """Return where a path of this run lies."""
        return Path(self.data_root) / relative


Checkpoint = Literal["final", "best", "last"] | int


class ScoreRun(ChildRun):
    """Scoring of one model."""

    validation: str = Field(description="directory of the validation shards")
    items: str | None = Field(default=None, description="directory with items.parquet")
    prompts: str | None = Field(default=None, description="directory with prompts.parquet")
    checkpoint: Checkpoint = Field(
        default="final",
        description="final: the model; best, last, or the step of a checkpoint beside it",
    )
    loss_on: LossOn = Field(default="all", description="which validation targets count")
    style: Style = Field(default="text", description="what the prompts of the samples are")
    attention: AttentionScope = Field(
        default="causal", description="what a token of the validation rows sees"
    )
    score: ScoreConfig


class ExportRun(ChildRun):
    """Export of one model."""

    export: ExportConfig
    card: str = Field(default="", description="text of the model card; empty = none is written")


class TalkRun(ChildRun):
    """A conversation with one exported model, whose folder holds its tokenizer, too."""

    talk: TalkConfig


class MeasureRun(ConfigFile):
    """Measuring how fast a model trains on this machine."""

    model: ModelConfig
    train: TrainConfig = Field(description="its batch, optimizer and precision; not its horizon")
    vocab_size: int
    destination: str = Field(description="file that takes the Speed, written by rank 0")


class Speed(Facts):
    """How fast a model trains."""

    tokens_per_second: float = Field(description="over whole optimizer steps, all processes")
    step_seconds: float = Field(description="one optimizer step")
    micro_batch_seconds: float = Field(description="one forward and backward pass of it")
    micro_batches_per_step: int = Field(description="per process")
    device: str
    precision: str
    compiling: str = Field(description="how the steps ran")


class ChildResult(Config):
    """How a process failed."""

    state: Literal["failed"] = "failed"
    error: ErrorReport


def parse_config_path(arguments: Sequence[str] | None, *, description: str | None) -> Path:
    """Return the path given as ``--config`` on the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, required=True, help="JSON file of this run")
    return parser.parse_args(arguments).config


def run_child(config_path: Path, make: Callable[[Path], None]) -> int:
    """Call ``make`` with the config's path and return the exit status.

    What a user can mend is reported in one message; bugs go on up, with their traceback.
    """
    try:
        make(config_path)
    except LLMError as error:
        logger.error("%s", error)  # noqa: TRY400 - the message says all; a traceback would hide it
        text = ChildResult(error=ErrorReport.of(error)).model_dump_json(indent=1)
        if config_path.parent.is_dir():
            write_synced(config_path.parent / RESULT_NAME, text.encode())
        return 1
    return 0


def make_artifact(run: ChildRun, body: Callable[[Work], None]) -> None:
    """Make the artifact of a run in the store, unless it is there."""

    def logged(work: Work) -> None:
        work.logs |= {CONFIG_NAME, RESULT_NAME}
        (work.path / RESULT_NAME).unlink(missing_ok=True)  # an earlier attempt's failure
        body(work)

    # The work directory is kept: it holds the config. Every file of the body is written anew.
    ArtifactStore(Path(run.data_root)).build(run.derivation, logged, resume=True)


def verify_inputs(run: ChildRun) -> None:
    """Read every content file of a run's inputs and compare it with its manifest.

    Raises:
        ArtifactError: an input is gone, or a file of it is, or has another size.
        TamperedArtifactError: a file has another sha256.
    """
    store = ArtifactStore(Path(run.data_root))
    for item in (item for items in run.derivation.inputs.values() for item in items):
        manifest = store.read_manifest(item)
        check_sizes(store.path(item), manifest)
        for entry in manifest.files:
            if entry.role == "content":
                check_sha256(store.path(item) / entry.path, entry)
