"""Stage write_shards: token shards in one global shuffled order, duplicates left out, and rows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from model.core.config import Config
from model.core.store import Work
from tasks.config.corpus import Packing, ShardsConfig
from tasks.engine.removals import removal_table
from tasks.engine.stage import Share, Stage
from tasks.stages.tokenise import Split
from tasks.tokens.shuffle import ALGORITHM
from tasks.tokens.training_shards import write_shards as write

STEP_VERSION = 1


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
        """Return what identifies the shards: how training rows are packed says nothing of others.

        Rows of validation keep the key that they had before there was a choice.
        """
        fields = super().semantic()
        if self.split == "validation":
            del fields["shards"]["packing"]
        return fields


def build(work: Work, config: WriteShards, share: Share) -> None:  # noqa: ARG001
    """Write shard-*.arrow and rows.arrow."""
    removed = [removal_table(item, work.store) for item in work.derivation.inputs["removed"]]
    counts = write(
        [path / "tokens.arrow" for path in work.inputs("tokens")],
        removed,
        split=config.split,
        seed=config.seed,
        shard_tokens=config.shards.shard_tokens,
        context_tokens=config.context_tokens,
        packing=config.packing,
        shuffle=config.split == "training",
        destination=work.path,
    )
    numbers = asdict(counts)
    work.facts = {"files": list(numbers.pop("files")), "context_tokens": config.context_tokens}
    work.counts = numbers


write_shards = Stage(
    "write_shards",
    version=STEP_VERSION,
    build=build,
    scope="corpus",
    algorithms={"shuffle": ALGORITHM},
)
