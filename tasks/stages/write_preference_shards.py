"""Stage write_preference_shards: DPO pairs as token shards with a loss mask, two rows per pair."""

from __future__ import annotations

from model.core.store import Work
from tasks.config.chat import RecordShardLayout
from tasks.engine.record_sets import input_tables
from tasks.engine.stage import Share, Stage
from tasks.tokens.dpo import write_dpo_shards

STEP_VERSION = 1


def build(work: Work, config: RecordShardLayout, share: Share) -> None:  # noqa: ARG001
    """Write shard-*.arrow and rows.arrow."""
    counts = write_dpo_shards(
        input_tables(work, "preferences", split=config.split),
        layout=config,
        tokenizer_directory=work.input("tokenizer"),
        destination=work.path,
    )
    work.counts = counts.of_stage(truncated="num_trimmed")
    work.facts = {"context_tokens": config.context_tokens}


write_preference_shards = Stage(
    "write_preference_shards", version=STEP_VERSION, build=build, scope="corpus"
)
