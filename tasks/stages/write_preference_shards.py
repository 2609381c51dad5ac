"""Stage write_preference_shards: DPO pairs as token shards with a loss mask, two rows per pair."""

from __future__ import annotations

from dataclasses import asdict

from model.core.outputs import Counts, Outputs
from model.core.store import Work
from tasks.config.chat import RecordShardLayout
from tasks.engine.record_sets import RecordShardsFacts, input_tables
from tasks.engine.stage import ResourceShare, Stage
from tasks.stages.read_preferences import ReadPreferencesOutputs
from tasks.stages.train_tokenizer import TrainTokenizerOutputs
from tasks.tokens.dpo import write_dpo_shards

STEP_VERSION = 1


class WritePreferenceShardsCounts(Counts):
    """Pairs; in = kept + too long; some of those kept lost their first turns."""

    num_in: int
    num_kept: int
    too_long: int = 0
    num_trimmed: int = 0
    num_shards: int
    num_tokens: int
    num_targets: int
    num_rows: int
    num_padding: int

    @property
    def dropped(self) -> dict[str, int]:
        """Pairs by the reason they were dropped for."""
        return {"too_long": self.too_long}


class WritePreferenceShardsOutputs(
    Outputs[WritePreferenceShardsCounts, RecordShardsFacts], stage="write_preference_shards"
):
    """The shards and rows of pairs; ``ShardSet`` reads their directory."""


def build(work: Work, config: RecordShardLayout, share: ResourceShare) -> None:  # noqa: ARG001
    """Write shard-*.arrow and rows.arrow."""
    counts = write_dpo_shards(
        input_tables(work, "preferences", outputs=ReadPreferencesOutputs, split=config.split),
        layout=config,
        tokenizer_directory=TrainTokenizerOutputs.input(work, "tokenizer").directory,
        destination=work.path,
    )
    numbers = asdict(counts)
    WritePreferenceShardsOutputs.record(
        work,
        WritePreferenceShardsCounts(num_trimmed=numbers.pop("num_truncated"), **numbers),
        RecordShardsFacts(context_tokens=config.context_tokens),
    )


write_preference_shards = Stage(
    WritePreferenceShardsOutputs, version=STEP_VERSION, build=build, scope="corpus"
)
