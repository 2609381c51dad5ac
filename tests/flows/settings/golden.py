"""Resolved settings of all presets, alone and with eleven overrides each: ``resolved.json``.

python -m tests.flows.settings.golden    # writes the file again, after a value changed on purpose
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from flows.settings.config import PretrainConfig
from flows.settings.presets import PRESETS
from flows.settings.resolve import resolve
from model.core.store import ArtifactStore

FILE = Path(__file__).with_name("resolved.json")
PRESET_ALONE = "preset alone"
CASES: dict[str, dict[str, Any]] = {
    PRESET_ALONE: {},
    "steps": {"train": {"steps": 7}},
    "tokens": {"train": {"tokens": 50_000_001}},
    "budgets": {
        "train": {"budget_minutes": 5},
        "finetune": {"train": {"budget_minutes": 2}},
    },
    "size": {"model": {"size": "27m"}, "train": {"batch_tokens_per_step": 262_144}},
    "finetune": {
        "finetune": {"rate_scale": 0.5, "train": {"steps": 20, "batch_tokens_per_step": 65_536}}
    },
    "chat model": {"then_finetune": True},
    "base model": {"then_finetune": False},
    "dpo": {
        "then_finetune": True,
        "preference": {"method": "dpo", "train": {"learning_rate": 0.0001}},
    },
    "chat sets": {
        "then_finetune": True,
        "chat": {"sets": {"a": "hub:me/chats@main:data/*.parquet"}, "weights": {"a": 2.0}},
    },
    "local source": {
        "source": {"kind": "local", "path": "/some/folder"},
        "filter": {"profile": "light", "min_words": 3},
    },
    "adamw": {"train": {"optimizer": "adamw", "learning_rate": 0.001, "weight_decay": 0.2}},
}


def flat_values(preset: str, overrides: dict[str, Any], root: Path) -> dict[str, Any]:
    """Return every resolved setting by its dotted name, without the hub and this machine."""
    with (
        patch("flows.settings.resolve.pinned_chats", lambda chat: chat),
        patch("flows.settings.resolve.pinned_preferences", lambda preference: preference),
        patch(
            "tasks.planning.budget.stated_tokens_per_second",
            lambda _train, _architecture: (1_000.0, "stated for this test"),
        ),
    ):
        run = resolve(preset, overrides, kind=PretrainConfig, store=ArtifactStore(root))
    return dict(_leaves(run.config.model_dump(mode="json")))


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            leaves += _leaves(value, f"{prefix}{name}.")
        else:
            leaves.append((f"{prefix}{name}", value))
    return leaves


def main() -> None:
    """Write the file: a preset's values whole, those of its cases where they differ."""
    golden: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as root:
        for preset in PRESETS:
            alone = flat_values(preset, {}, Path(root))
            golden[preset] = {PRESET_ALONE: alone}
            for name, overrides in CASES.items():
                values = flat_values(preset, overrides, Path(root))
                gone = dict.fromkeys(alone.keys() - values.keys())
                changed = {key: item for key, item in values.items() if alone.get(key) != item}
                golden[preset].setdefault(name, changed | gone)
    FILE.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
