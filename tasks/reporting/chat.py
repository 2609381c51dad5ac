"""Reports of a chat model: the funnel of its conversations, and a conversation with it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from rich.table import Table

from model.core.artifact import Artifact, Manifest
from model.core.store import ArtifactStore
from tasks.engine.terminal import render
from tasks.reporting.funnel import losses
from tasks.reporting.run import in_prefect_run, plain_text
from tasks.stages.talk_to_model import read_conversation
from tasks.tracking.run import TrackedPipeline

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def report_chat_data(tracked: TrackedPipeline, manifests: Iterable[Manifest]) -> None:
    """Report where each conversation and each preference pair of a pipeline went.

    Args:
        manifests: of all stages of the pipeline; those of other data are ignored.
    """
    manifests = list(manifests)
    tracked.record_data(manifests)
    rows = chat_rows(manifests)
    tracked.record_table(rows, "conversations.json")
    logger.info("where the conversations went:\n%s", chat_table(rows))
    if in_prefect_run():
        create_table_artifact(rows, key="conversations", description="where conversations went")


def chat_rows(manifests: Iterable[Manifest]) -> list[Row]:
    """Return the funnel from records to training: set, stage, what, conversations."""
    lines: list[tuple[str, str, str, int]] = []
    for item in manifests:
        counts, name, stage = item.counts, item.artifact.name, item.artifact.stage
        if stage in ("read_chats", "read_preferences"):
            lines.append((name, stage, "records", counts["num_in"]))
            lines += [(name, stage, what, -num) for what, num in losses(item).items() if num]
            lines.append((name, stage, "training", counts["num_training"]))
            lines.append((name, stage, "held out", counts["num_held_out"]))
        elif stage == "write_chat_shards":
            lines += [(name, stage, what, -num) for what, num in losses(item).items() if num]
            lines.append((name, stage, "kept", counts["num_kept"]))
            lines.append((name, stage, "of those without their last turns", counts["num_cut"]))
        elif stage == "write_preference_shards":
            lines += [(name, stage, what, -num) for what, num in losses(item).items() if num]
            lines.append((name, stage, "pairs kept", counts["num_kept"]))
            lines.append((name, stage, "of those without first turns", counts["num_trimmed"]))
    columns = ("set", "stage", "what", "conversations")
    return [dict(zip(columns, line, strict=True)) for line in lines]


def chat_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the funnel for a terminal."""
    table = Table("set", "stage", "what")
    table.add_column("conversations", justify="right")
    for row in rows:
        table.add_row(row["set"], row["stage"], row["what"], f"{row['conversations']:,}")
    return render(table)


def report_conversation(
    tracked: TrackedPipeline, conversation: Artifact, *, scores: Artifact, store: ArtifactStore
) -> None:
    """Log a conversation with a finished chat model, its score, and where the run is."""
    turns = read_conversation(store.path(conversation))
    tracked.record_text(conversation_text(turns), "conversation.txt")
    facts = store.read_manifest(scores).facts
    lines = [
        "a conversation with the chat model:",
        conversation_text(turns),
        f"held-out conversations, what the assistant says: {facts['bits_per_byte']:.4f} bits per "
        f"byte, {facts['validation_loss']:.4f} nats per token",
        f"MLflow run: {tracked.url or f'{tracked.run_id} in {tracked.uri}'}",
    ]
    logger.info("%s", "\n".join(lines))
    if in_prefect_run():
        text = conversation_markdown(turns)
        create_markdown_artifact(text, key="conversation", description="with the chat model")


def conversation_text(turns: Sequence[Mapping[str, str]]) -> str:
    """Return turns as plain text, the user's after a `> `."""
    marks = {"user": "> "}
    lines = [f"{marks.get(turn['role'], '')}{turn['content'] or '(nothing)'}" for turn in turns]
    return "\n".join(lines) + "\n"


def conversation_markdown(turns: Sequence[Mapping[str, str]]) -> str:
    """Return turns as Markdown, the user's in bold and all text escaped."""
    lines = []
    for turn in turns:
        text = plain_text(turn["content"] or "(nothing)")
        lines.append(f"**{text}**\n" if turn["role"] == "user" else f"{text}\n")
    return "\n".join(lines)
