"""Stage write_chat_shards: SFT examples as token shards with a loss mask, rows of whole ones."""

from __future__ import annotations

from dataclasses import asdict

from model.core.outputs import Counts, Outputs
from model.core.store import Work
from tasks.config.chat import RecordShardLayout
from tasks.engine.record_sets import RecordShardsFacts, input_tables
from tasks.engine.stage import ResourceShare, Stage
from tasks.stages.read_chats import ReadChatsOutputs
from tasks.stages.train_tokenizer import TrainTokenizerOutputs
from tasks.tokens.sft import write_sft_shards

STEP_VERSION = 1


class WriteChatShardsCounts(Counts):
    """Conversations; in = kept + too long; some of those kept lost their last turns."""

    num_in: int
    num_kept: int
    too_long: int = 0
    num_cut: int = 0
    num_shards: int
    num_tokens: int
    num_targets: int
    num_rows: int
    num_padding: int

    @property
    def dropped(self) -> dict[str, int]:
        """Conversations by the reason they were dropped for."""
        return {"too_long": self.too_long}


class WriteChatShardsOutputs(
    Outputs[WriteChatShardsCounts, RecordShardsFacts], stage="write_chat_shards"
):
    """The shards and rows of conversations; ``ShardSet`` reads their directory."""


def build(work: Work, config: RecordShardLayout, share: ResourceShare) -> None:  # noqa: ARG001
    """Write shard-*.arrow and rows.arrow."""
    counts = write_sft_shards(
        input_tables(work, "chats", outputs=ReadChatsOutputs, split=config.split),
        layout=config,
        tokenizer_directory=TrainTokenizerOutputs.input(work, "tokenizer").directory,
        destination=work.path,
    )
    numbers = asdict(counts)
    WriteChatShardsOutputs.record(
        work,
        WriteChatShardsCounts(num_cut=numbers.pop("num_truncated"), **numbers),
        RecordShardsFacts(context_tokens=config.context_tokens),
    )


write_chat_shards = Stage(WriteChatShardsOutputs, version=STEP_VERSION, build=build, scope="corpus")
