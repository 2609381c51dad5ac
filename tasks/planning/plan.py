"""Plan of a run: stages that would run and why, disk, memory, time and cost.

Sizes and times are estimates; each states where its rate comes from. Only the disk estimate has
consequences: a run that cannot fit is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal
from rich.table import Table

from model.core.artifact import Artifact, first_few
from model.core.config import Config
from model.core.errors import DiskSpaceError
from model.core.store import ArtifactStore
from tasks.engine.pipeline import Pipeline, Step, memory_bytes
from tasks.engine.terminal import render
from tasks.planning.estimate import (
    NO_PREDICTION,
    TrainingEstimate,
    estimate_trainings,
    training_disk_bytes,
    uncounted_trainings,
)
from tasks.stages.download import Download, DownloadOutputs
from tasks.stages.filter_documents import FilterDocumentsOutputs
from tasks.stages.publish_corpus import DATASET, PublishCorpusOutputs
from tasks.stages.signatures import SignaturesOutputs
from tasks.stages.tokenise import TokeniseOutputs
from tasks.stages.write_shards import WriteShardsOutputs

# Bytes each stage leaves per byte of raw zstd parquet, measured on FineWeb-like text: filtered text
# is compressed the same way, a token takes two bytes and 4.4 bytes of text, text shrinks to 0.66.
DISK_PER_RAW_BYTE = {
    DownloadOutputs.stage: 1.0,
    FilterDocumentsOutputs.stage: 0.95,
    SignaturesOutputs.stage: 0.09,
    TokeniseOutputs.stage: 0.7,
    WriteShardsOutputs.stage: 0.7,
    PublishCorpusOutputs.stage: 0.95,
}
RAW_BYTES_PER_DOCUMENT = 2_100  # sample-10BT: 30.6 GB in 14.87 M documents
DEMO_RAW_BYTES_PER_DOCUMENT = 250
DISK_MARGIN = 1.05


@dataclass(frozen=True)
class Plan:
    """Stages that would run or are cached and why, and what they would take."""

    steps: tuple[Step, ...]
    disk_bytes: int
    data_memory_bytes: int
    trainings: tuple[TrainingEstimate, ...]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the plan as a table and a few lines."""
        table = Table("stage", "artifacts", "cached", "would run", "why")
        for stage, steps in by_stage(self.steps).items():
            waiting = [step for step in steps if step.status.state != "complete"]
            reasons = [reason for step in waiting for reason in step.status.reasons]
            why = first_few(reasons) or _depends_on(steps, self.steps)
            table.add_row(
                stage, str(len(steps)), str(len(steps) - len(waiting)), str(len(waiting)), why
            )
        return "\n".join([render(table), *self._estimates()])

    def reasons_text(self) -> str:
        """Return every reason of every artifact that would be made, each on a line of its own."""
        lines = []
        for step in self.steps:
            if step.status.state != "complete":
                lines.append(f"{step.artifact.relative_path} would be made:")
                lines += [f"  {reason}" for reason in step.status.reasons]
        return "\n".join(lines)

    def _estimates(self) -> list[str]:
        lines = [
            f"new on disk: about {decimal(self.disk_bytes)}",
            f"memory: data stages at most {decimal(self.data_memory_bytes)}",
        ]
        if self.trainings:
            memory = max(training.memory_bytes for training in self.trainings)
            lines[1] += f", training about {decimal(memory)} and activations"
            lines += [_training_text(training) for training in self.trainings]
            if not all(item.prediction for item in self.trainings if item.is_first):
                lines.append(NO_PREDICTION)
        if len(self.trainings) > 1:
            lines.append(_total_text(self.trainings))
        return [*lines, *self.notes]

    def training_of(self, artifact: Artifact) -> TrainingEstimate | None:
        """Return what was expected of a training; nothing of one that was there already."""
        same = (item for item in self.trainings if item.artifact.key == artifact.key)
        return next(same, None)

    def require_disk(self, root: Path) -> None:
        """Refuse a run that the disk below ``root`` cannot hold.

        Raises:
            DiskSpaceError: it has less free space than the plan needs.
        """
        place = next(path for path in (root, *root.parents) if path.exists())
        free_bytes = shutil.disk_usage(place).free
        needed_bytes = int(self.disk_bytes * DISK_MARGIN)
        if needed_bytes > free_bytes:
            raise DiskSpaceError(
                "the disk cannot hold this run",
                expected=f"about {decimal(needed_bytes)} free",
                found=f"{decimal(free_bytes)} free",
                where=place,
                fix="free some space, set LLM_DATA_ROOT to a larger disk, or take a smaller preset "
                "(source.max_documents cuts the source)",
            )


def make_plan(pipeline: Pipeline, *, vocab_size: int, notes: Sequence[str] = ()) -> Plan:
    """Return the plan of a pipeline that was walked without a task runner.

    Args:
        notes: lines to end it with.
    """
    steps = tuple(pipeline.steps.values())
    trainings = estimate_trainings(
        steps,
        pipeline.store,
        vocab_size=vocab_size,
        dollars_per_hour=pipeline.run.dollars_per_hour,
    )
    return Plan(
        steps=steps,
        disk_bytes=_estimate_disk(steps, pipeline.store)
        + training_disk_bytes(steps, pipeline.store, vocab_size=vocab_size),
        data_memory_bytes=memory_bytes(pipeline.run),
        trainings=trainings,
        notes=(*uncounted_trainings(steps, pipeline.store), *notes),
    )


def outcome_text(steps: Iterable[Step], store: ArtifactStore) -> str:
    """Return what became of each stage, as a table."""
    table = Table("stage", "cached", "made", "seconds")
    for stage, group in by_stage(steps).items():
        made = [step for step in group if step.outcome == "made"]
        seconds = sum(store.read_manifest(step.artifact).origin.seconds for step in made)
        word = "Cached" if not made else str(len(group) - len(made))
        table.add_row(stage, word, str(len(made)), f"{seconds:.1f}" if made else "")
    return render(table)


def by_stage(steps: Iterable[Step]) -> dict[str, list[Step]]:
    """Return steps grouped by stage, in the order of the walk."""
    groups: dict[str, list[Step]] = {}
    for step in steps:
        groups.setdefault(step.stage.name, []).append(step)
    return groups


def settings_text(config: Config) -> str:
    """Return a resolved config as one ``group.field = value`` line per field."""
    return "\n".join(_setting_lines(config, prefix=""))


def _setting_lines(config: Config, *, prefix: str) -> Iterator[str]:
    for name, value in config:
        if isinstance(value, Config):
            yield from _setting_lines(value, prefix=f"{prefix}{name}.")
        else:
            yield f"{prefix}{name} = {value!r}"


def _depends_on(steps: list[Step], walk: tuple[Step, ...]) -> str:
    """Return which inputs would be made again, whose bytes could then differ."""
    waiting = {step.derivation.key for step in walk if step.status.state != "complete"}
    inputs = {
        item.stage
        for step in steps
        for items in step.derivation.inputs.values()
        for item in items
        if item.key in waiting
    }
    return f"cached, if {', '.join(sorted(inputs))} comes out the same" if inputs else ""


def _raw_bytes(step: Step) -> int:
    download = step.config
    assert isinstance(download, Download)
    file = download.file
    if download.source.kind == "demo":
        source = download.source
        return DEMO_RAW_BYTES_PER_DOCUMENT * source.demo_documents // source.demo_shards
    if file.take_rows is not None:
        return RAW_BYTES_PER_DOCUMENT * file.take_rows
    return file.num_bytes or 0


def _estimate_disk(steps: tuple[Step, ...], store: ArtifactStore) -> int:
    raw = {
        step.artifact.name: _raw_bytes(step)
        for step in steps
        if DownloadOutputs.made(step.artifact)
    }
    sizes = raw | dict.fromkeys(("training", DATASET), sum(raw.values()))
    estimate = 0.0
    for step in steps:
        if step.status.state != "complete":
            share = DISK_PER_RAW_BYTE.get(step.stage.name, 0.0)
            estimate += share * sizes.get(step.artifact.name, 0)
            estimate -= _bytes_below(store.work_path(step.artifact))
    return max(0, int(estimate))


def _bytes_below(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _training_text(training: TrainingEstimate) -> str:
    """Return a training, its cost and what it should score, as a line."""
    cost = f", ${training.dollars:,.2f}" if training.dollars else ""
    expected = f"; predicted: {training.prediction.text()}" if training.prediction else ""
    return (
        f"training {training.artifact.name}: {training.num_tokens:,} tokens, "
        f"{training.num_params:,} parameters, {training.flops:.2e} FLOPs, "
        f"about {duration(training.seconds)}{cost} "
        f"(at {training.tokens_per_second:,.0f} tokens/s, {training.rate_source}){expected}"
    )


def _total_text(trainings: Sequence[TrainingEstimate]) -> str:
    dollars = sum(training.dollars for training in trainings)
    cost = f", ${dollars:,.2f}" if dollars else ""
    return (
        f"all {len(trainings)} trainings, one after the other: "
        f"{sum(training.flops for training in trainings):.2e} FLOPs, "
        f"about {duration(sum(training.seconds for training in trainings))}{cost}"
    )


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for unit, scale in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:.1f} {unit}"
    return f"{seconds:.0f} seconds"
