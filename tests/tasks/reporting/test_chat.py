"""tasks.reporting.chat: the funnel of conversations, and a conversation."""

from __future__ import annotations

from pathlib import Path

from model.config.outputs import TrainModelOutputs
from model.core.store import ArtifactStore
from tasks.engine.record_sets import RecordSetCounts
from tasks.reporting.chat import chat_rows, chat_table, conversation_markdown, conversation_text
from tasks.stages.read_chats import ReadChatsOutputs
from tasks.stages.write_chat_shards import WriteChatShardsCounts, WriteChatShardsOutputs
from tasks.tracking.training import sample_rows
from tests.support.small_pipeline import filled, make

TURNS = (
    {"role": "user", "content": "Hi *there*"},
    {"role": "assistant", "content": "Hello.\n# No title"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": ""},
)


def test_rows_lead_from_records_to_what_is_kept(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    manifests = [
        make(
            store,
            ReadChatsOutputs,
            "mine",
            counts=RecordSetCounts(
                num_in=10, num_training=6, num_held_out=2, empty_turn=2, not_json=0
            ),
        ),
        make(
            store,
            WriteChatShardsOutputs,
            "training-mine",
            counts=filled(
                WriteChatShardsCounts, num_in=6, num_kept=5, too_long=1, num_cut=2, num_tokens=99
            ),
        ),
        make(store, TrainModelOutputs, "chat"),
    ]
    rows = chat_rows(manifests)
    assert [(row["what"], row["conversations"]) for row in rows] == [
        ("records", 10),
        ("empty_turn", -2),
        ("training", 6),
        ("held out", 2),
        ("too_long", -1),
        ("kept", 5),
        ("of those without their last turns", 2),
    ]
    table = chat_table(rows)
    assert "empty_turn" in table
    assert "-2" in table


def test_conversation_is_shown_as_it_is_and_never_taken_for_markup() -> None:
    assert conversation_text(TURNS) == "> Hi *there*\nHello.\n# No title\n> Bye\n(nothing)\n"
    shown = conversation_markdown(TURNS)
    assert "**Hi \\*there\\***" in shown
    assert "<br>\\# No title" in shown
    assert "\\(nothing\\)" in shown


def test_samples_become_rows_by_step_and_prompt() -> None:
    samples = [{"prompt": "a", "text": "x"}, {"prompt": "b", "text": "y"}]
    events = [
        {"kind": "sample", "step": 5, "samples": samples},
        {"kind": "train", "step": 6},
        {"kind": "sample", "step": 10, "samples": samples[:1]},
        {"kind": "sample", "step": 15, "prompt": "of an older training", "text": "z"},
    ]
    assert [tuple(row.values()) for row in sample_rows(events)] == [
        (5, "a", "x"),
        (5, "b", "y"),
        (10, "a", "x"),
    ]
