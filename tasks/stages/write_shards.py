"""Stage write_shards: shuffled token shards without removed documents, and their packed rows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from model.core.config import Config
from model.core.outputs import Counts, Facts, Outputs
from model.core.store import Work
from tasks.config.corpus import Packing, ShardsConfig
from tasks.engine.stage import ResourceShare, Stage
from tasks.stages.select_quality import removed_documents
from tasks.stages.tokenise import Split, TokeniseOutputs
from tasks.tokens.training_shards import SHUFFLE_ALGORITHM
from tasks.tokens.training_shards import write_shards as write

STEP_VERSION = 1


class WriteShardsCounts(Counts):
    """Documents, those left out as removed, and what the shards and rows hold."""

    num_shards: int
    num_docs: int
    num_tokens: int
    num_removed: int
    num_rows: int
    num_targets: int
    num_padding: int


class WriteShardsFacts(Facts):
    """Names of the source files, which documents refer to, and the tokens of a row's context."""

    files: list[str]
    context_tokens: int


class WriteShardsOutputs(Outputs[WriteShardsCounts, WriteShardsFacts], stage="write_shards"):
    """The shards and rows of one split; ``ShardSet`` reads their directory."""


class WriteShards(Config):
    """How the shards of one split are cut."""

    shards: ShardsConfig
    split: Split
    context_tokens: int
    seed: int

    @property
    def packing(self) -> Packing:
        """How rows are cut; those of validation stay what they are, so that numbers compare."""
        return "concat" if self.split == "validation" else self.shards.packing

    def semantic(self) -> dict[str, Any]:
        """Return what identifies the shards; how training rows are packed shapes no others."""
        fields = super().semantic()
        if self.split == "validation":
            del fields["shards"]["packing"]
        return fields


def build(work: Work, config: WriteShards, share: ResourceShare) -> None:  # noqa: ARG001
    """Write shard-*.arrow and rows.arrow."""
    counts = write(
        [item.tokens for item in TokeniseOutputs.inputs(work, "tokens")],
        removed_documents(work),
        split=config.split,
        seed=config.seed,
        shard_tokens=config.shards.shard_tokens,
        context_tokens=config.context_tokens,
        packing=config.packing,
        shuffle=config.split == "training",
        destination=work.path,
    )
    numbers = asdict(counts)
    files = list(numbers.pop("files"))
    WriteShardsOutputs.record(
        work,
        WriteShardsCounts(**numbers),
        WriteShardsFacts(files=files, context_tokens=config.context_tokens),
    )


write_shards = Stage(
    WriteShardsOutputs,
    version=STEP_VERSION,
    build=build,
    scope="corpus",
    algorithms={"shuffle": SHUFFLE_ALGORITHM},
)
