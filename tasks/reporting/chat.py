"""Reports of a chat model: the funnel of its conversations, and a conversation with it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from rich.table import Table

from model.config.outputs import ScoreModelOutputs, TalkToModelOutputs
from model.core.artifact import Artifact, Manifest
from model.core.store import ArtifactStore
from tasks.engine.terminal import render
from tasks.reporting.run import in_prefect_run, plain_text
from tasks.stages.read_chats import ReadChatsOutputs
from tasks.stages.read_preferences import ReadPreferencesOutputs
from tasks.stages.talk_to_model import read_conversation
from tasks.stages.write_chat_shards import WriteChatShardsOutputs
from tasks.stages.write_preference_shards import WritePreferenceShardsOutputs
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
        lines += [(item.artifact.name, item.artifact.stage, *line) for line in _lines(item)]
    columns = ("set", "stage", "what", "conversations")
    return [dict(zip(columns, line, strict=True)) for line in lines]


def _lines(manifest: Manifest) -> list[tuple[str, int]]:
    """Return what one artifact adds to the funnel; nothing for other data than conversations."""
    for outputs in (ReadChatsOutputs, ReadPreferencesOutputs):
        if outputs.made(manifest):
            counts = outputs.counts_of(manifest)
            records = ("records", counts.num_in)
            sides = [("training", counts.num_training), ("held out", counts.num_held_out)]
            return [records, *_dropped(counts.dropped), *sides]
    if WriteChatShardsOutputs.made(manifest):
        counts = WriteChatShardsOutputs.counts_of(manifest)
        cut = ("of those without their last turns", counts.num_cut)
        return [*_dropped(counts.dropped), ("kept", counts.num_kept), cut]
    if WritePreferenceShardsOutputs.made(manifest):
        counts = WritePreferenceShardsOutputs.counts_of(manifest)
        trimmed = ("of those without first turns", counts.num_trimmed)
        return [*_dropped(counts.dropped), ("pairs kept", counts.num_kept), trimmed]
    return []


def _dropped(reasons: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(reason, -count) for reason, count in reasons.items() if count]


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
    turns = read_conversation(TalkToModelOutputs.of(store, conversation))
    tracked.record_text(conversation_text(turns), "conversation.txt")
    facts = ScoreModelOutputs.of(store, scores).facts
    lines = [
        "a conversation with the chat model:",
        conversation_text(turns),
        f"held-out conversations, what the assistant says: {facts.bits_per_byte:.4f} bits per "
        f"byte, {facts.validation_loss:.4f} nats per token",
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
