"""tasks.stages.write_shards: what the key of each split depends on, and how its rows are packed."""

from __future__ import annotations

from tasks.config.corpus import ShardsConfig
from tasks.stages.write_shards import WriteShards, write_shards


def config_of(split: str, **shards: object) -> WriteShards:
    return WriteShards.model_validate(
        {"shards": ShardsConfig(**shards), "split": split, "context_tokens": 1024, "seed": 1}
    )


def key_of(config: WriteShards) -> str:
    return write_shards.derive(config.split, config=config, inputs={}).key


def test_packing_changes_the_key_of_training_shards_only():
    keys = {
        split: {key_of(config_of(split, packing=packing)) for packing in ("best_fit", "concat")}
        for split in ("training", "validation")
    }
    assert len(keys["training"]) == 2
    assert len(keys["validation"]) == 1


def test_key_of_validation_shards_never_changed():
    # Frozen: bits per byte only compare while it is the same.
    assert key_of(config_of("validation"))[:12] == "dbd3abd52460"


def test_validation_rows_are_always_concat():
    assert config_of("validation", packing="best_fit").packing == "concat"
    assert config_of("training").packing == "best_fit"
    assert config_of("training", packing="concat").packing == "concat"
