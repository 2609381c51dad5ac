"""Typed outputs of the stages whose artifacts a child process makes.

Both the process in ``model/`` and the consumers in ``tasks/`` use them: see ``model.core.outputs``.
"""

from __future__ import annotations

from typing import ClassVar, Final

from pydantic import Field

from model.core.outputs import Counts, Facts, OpenCounts, OutputFile, Outputs

EVENTS_NAME: Final = "events.jsonl"
ITEMS_SUFFIX: Final = "_items"  # after the name of an evaluation set: its items


class TrainModelCounts(Counts):
    """Optimizer steps, the tokens they read, and the targets among them that counted."""

    steps: int
    tokens: int
    targets: int


class KeptCheckpoint(Facts):
    """A checkpoint that stays beside the finished model."""

    step: int
    path: str  # from the artifact's directory
    is_best: bool = False
    is_trunk: bool = False  # last one at constant learning rate: longer trainings resume from it
    metrics: dict[str, float] = Field(default_factory=dict)  # of the validation at its step


class ExtendedFrom(Facts):
    """The finished training whose checkpoint another one resumed from."""

    artifact: str
    step: int


class TrainingEnvironment(Facts):
    """Machine, precision and size of a training; each start and resume records it, too."""

    num_steps: int
    num_processes: int
    device: str
    precision: str
    threads_per_process: int
    compiling: str = "eager"
    attention: str = ""
    peak_flops_per_second: float | str = "unknown"
    num_params: int
    epochs: float = 0.0


class TrainingScores(Facts):
    """Last and best scores of a training, its checkpoints and its speed."""

    validation_loss: float
    best_validation_loss: float | None
    checkpoints: tuple[KeptCheckpoint, ...]
    tokens_per_second: float  # median over the recorded intervals
    metrics: dict[str, float]  # last value of each
    validation_bits_per_byte: float | None = None  # of text; pairs of answers have none
    extended_from: ExtendedFrom | None = None


class TrainModelFacts(TrainingEnvironment, TrainingScores):
    """Scores, then environment of a training: the order in the manifest."""


class TrainModelOutputs(Outputs[TrainModelCounts, TrainModelFacts], stage="train_model"):
    """A trained model, its checkpoints and its event log."""

    LOGS: ClassVar = frozenset({"checkpoints", EVENTS_NAME})  # may be deleted

    model = OutputFile("model")  # folder of weights and architecture
    checkpoints = OutputFile("checkpoints")  # folder of checkpoints
    events = OutputFile(EVENTS_NAME)  # every event of the training, one JSON object a line


class MeasuredFacts(Facts):
    """Facts of a stage that measures a model: every number is a score."""

    @property
    def scores(self) -> dict[str, float]:
        """Every number that was measured, in the manifest's order."""
        return {
            name: value
            for name, value in self.plain().items()
            if isinstance(value, int | float) and name != "checkpoint_step"
        }

    @property
    def unmeasured(self) -> dict[str, str]:
        """Scores that are missing, and why."""
        return {}


class ScoreModelCounts(OpenCounts):
    """Validation tokens and bytes, texts that were written, and items of each evaluation set."""

    EXTRAS_FIRST = True
    generations: int | None = None
    tokens: int
    bytes: int


class ScoreModelFacts(MeasuredFacts, extra="allow"):
    """Scores on validation documents and, under ``<set>_<measure>``, on evaluation sets."""

    __pydantic_extra__: dict[str, float | str] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]
    EXTRAS_FIRST = True

    validation_loss: float
    bits_per_byte: float
    checkpoint_step: int | None = None  # of the checkpoint scored; absent of the final model

    @property
    def items_digests(self) -> dict[str, str]:
        """Digest of the items of each evaluation set: equal ones compare."""
        extras = self.__pydantic_extra__.items()
        return {
            name.removesuffix(ITEMS_SUFFIX): str(value)
            for name, value in extras
            if name.endswith(ITEMS_SUFFIX)
        }


class ScoreModelOutputs(Outputs[ScoreModelCounts, ScoreModelFacts], stage="score_model"):
    """Scores of a model, and texts it wrote."""

    scores = OutputFile("scores.json")  # scores and sample texts, as JSON
    # Log-likelihoods of each item of the evaluation sets, where there are any.
    item_scores = OutputFile("item_scores.parquet")
    # Texts that were written for judge_texts, where there were prompts.
    generations = OutputFile("generations.parquet")


class ExportModelCounts(Counts):
    """Parameters of the model."""

    parameters: int


class ExportModelFacts(Facts):
    """Types of the exported weights, and the folder in the artifact."""

    dtype: str
    gguf: str
    directory: str


class ExportModelOutputs(Outputs[ExportModelCounts, ExportModelFacts], stage="export_model"):
    """A model in the folder that other runtimes load."""

    # The folder; its name is part of the address of a model that is served.
    folder = OutputFile("model")


class TalkToModelCounts(Counts):
    """Turns of both sides."""

    turns: int


class TalkToModelOutputs(Outputs[TalkToModelCounts, Facts], stage="talk_to_model"):
    """A conversation with a model."""

    conversation = OutputFile("conversation.json")  # its turns, as a JSON list of role and content
