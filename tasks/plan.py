"""What a run would do and cost, before it does anything.

Sizes and times are estimates; each states where its rate comes from. Only the disk estimate has
consequences: a run that cannot fit is refused.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from model.config import Architecture, Config
from model.errors import DiskSpaceError
from model.store import ArtifactStore
from model.train_config import batch_tokens_of
from tasks.download import Download
from tasks.launchers import num_gpus, num_processes
from tasks.pipeline import Pipeline, Step, memory_bytes, num_cores
from tasks.publish_corpus import DATASET
from tasks.tables import render
from tasks.train_model import TrainModel

# Bytes each stage leaves per byte of raw zstd parquet, measured on FineWeb-like text: filtered text
# is compressed the same way, a token takes two bytes and 4.4 bytes of text, text shrinks to 0.66.
DISK_PER_RAW_BYTE = {
    "download": 1.0,
    "filter_documents": 0.95,
    "signatures": 0.09,
    "tokenise": 0.7,
    "write_shards": 0.7,
    "publish_corpus": 0.95,
}
RAW_BYTES_PER_DOCUMENT = 2_100  # sample-10BT: 30.6 GB in 14.87 M documents
DEMO_RAW_BYTES_PER_DOCUMENT = 250
DISK_MARGIN = 1.05
TRAINING_BYTES_PER_PARAM = 16  # fp32 weights, gradients and two AdamW moments
CHECKPOINT_BYTES_PER_PARAM = 12  # weights and moments
WEIGHT_BYTES = 4
STATED_GPU_FLOPS_PER_SECOND = 400e12  # an H200 at about 40 % of its bf16 peak
STATED_CPU_FLOPS_PER_SECOND = 50e9  # per core with AVX-512, fp32


@dataclass(frozen=True)
class TrainingEstimate:
    """What the training of a plan amounts to."""

    num_tokens: int
    num_params: int
    flops: float
    seconds: float
    rate_source: str
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Plan:
    """Stages that would run or are cached and why, and what they would take."""

    steps: tuple[Step, ...]
    disk_bytes: int
    data_memory_bytes: int
    training: TrainingEstimate | None

    def text(self) -> str:
        """Return the plan as a table and a few lines."""
        table = Table("stage", "artifacts", "cached", "would run", "why")
        for stage, steps in by_stage(self.steps).items():
            waiting = [step for step in steps if step.status.state != "complete"]
            reasons = dict.fromkeys(step.status.why for step in waiting)
            depends = _depends_on(steps, self.steps)
            why = "; ".join(list(reasons)[:3]) or depends
            table.add_row(
                stage, str(len(steps)), str(len(steps) - len(waiting)), str(len(waiting)), why
            )
        return "\n".join([render(table), *self._estimates()])

    def _estimates(self) -> list[str]:
        lines = [
            f"new on disk: about {_size(self.disk_bytes)}",
            f"memory: data stages at most {_size(self.data_memory_bytes)}",
        ]
        if self.training:
            training = self.training
            lines[1] += f", training about {_size(training.memory_bytes)} and activations"
            lines.append(
                f"training: {training.num_tokens:,} tokens, {training.num_params:,} parameters, "
                f"{training.flops:.2e} FLOPs, about {_duration(training.seconds)} "
                f"({training.rate_source})"
            )
        return lines

    def require_disk(self, root: Path) -> None:
        """Refuse a run that the disk below ``root`` cannot hold.

        Raises:
            DiskSpaceError: there is less room than the plan needs.
        """
        place = next(path for path in (root, *root.parents) if path.exists())
        free_bytes = shutil.disk_usage(place).free
        needed_bytes = int(self.disk_bytes * DISK_MARGIN)
        if needed_bytes > free_bytes:
            raise DiskSpaceError(
                "the disk cannot hold this run",
                expected=f"about {_size(needed_bytes)} free",
                found=f"{_size(free_bytes)} free",
                where=place,
                fix="free some space, set LLM_DATA_ROOT to a larger disk, or take a smaller preset "
                "(source.max_documents cuts the source)",
            )


def make_plan(pipeline: Pipeline, *, vocab_size: int) -> Plan:
    """Return the plan of a pipeline that was walked without a task runner."""
    steps = tuple(pipeline.steps.values())
    training = _estimate_training(steps, pipeline.store, vocab_size=vocab_size)
    return Plan(
        steps=steps,
        disk_bytes=_estimate_disk(steps, pipeline.store) + (training.disk_bytes if training else 0),
        data_memory_bytes=memory_bytes(pipeline.run),
        training=training,
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
    lines = []
    for name, value in config:
        if isinstance(value, Config):
            lines += [f"{name}.{field} = {item!r}" for field, item in value]
        else:
            lines.append(f"{name} = {value!r}")
    return "\n".join(lines)


def _depends_on(steps: list[Step], walk: tuple[Step, ...]) -> str:
    """Say which inputs would be made again, whose bytes could then differ."""
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
    raw = {step.artifact.name: _raw_bytes(step) for step in steps if step.stage.name == "download"}
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


def _estimate_training(
    steps: tuple[Step, ...], store: ArtifactStore, *, vocab_size: int
) -> TrainingEstimate | None:
    waiting = [
        step.config
        for step in steps
        if isinstance(step.config, TrainModel) and step.status.state != "complete"
    ]
    if not waiting:
        return None
    (config,) = waiting
    network = config.model.architecture(vocab_size)
    num_tokens = (config.train.steps or 0) * batch_tokens_of(config.train)
    flops = float(num_tokens) * network.flops_per_token()
    rate, rate_source = _training_rate(config, network, store)
    copies = config.train.keep_checkpoints + 1
    return TrainingEstimate(
        num_tokens=num_tokens,
        num_params=network.num_params(),
        flops=flops,
        seconds=num_tokens / rate,
        rate_source=rate_source,
        memory_bytes=TRAINING_BYTES_PER_PARAM * network.num_params(),
        disk_bytes=(copies * CHECKPOINT_BYTES_PER_PARAM + 2 * WEIGHT_BYTES) * network.num_params(),
    )


def _training_rate(
    config: TrainModel, network: Architecture, store: ArtifactStore
) -> tuple[float, str]:
    """Return tokens per second, measured by an earlier run on this machine or stated."""
    host = f"@{socket.gethostname()}"
    semantic = config.model.semantic()
    for manifest in sorted(
        store.manifests("train_model"), key=lambda item: item.origin.created_at, reverse=True
    ):
        rate = manifest.facts.get("tokens_per_second")
        same = manifest.derivation.config.get("model") == semantic
        if rate and same and manifest.origin.created_by.endswith(host):
            day = manifest.origin.created_at[:10]
            return float(rate), f"at {rate:,.0f} tokens/s, measured here on {day}"
    if num_gpus():
        speed = STATED_GPU_FLOPS_PER_SECOND * num_processes(config.train)
        source = "stated for an H200 at 40 % of its peak"
    else:
        speed = STATED_CPU_FLOPS_PER_SECOND * num_cores()
        source = "stated for CPU cores with AVX-512"
    rate = speed / network.flops_per_token()
    return rate, f"at {rate:,.0f} tokens/s, {source}"


def _size(num_bytes: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes / 1e3:.0f} kB"


def _duration(seconds: float) -> str:
    for unit, scale in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:.1f} {unit}"
    return f"{seconds:.0f} seconds"
