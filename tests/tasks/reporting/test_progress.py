"""Progress read from events.jsonl while it grows."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.reporting.progress import EventTail, TrainingProgress


def test_tail_of_growing_file_returns_whole_new_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = EventTail(path)
    assert tail.read() == []
    path.write_text('{"step": 1}\n{"st')
    assert tail.read() == [{"step": 1}]
    path.write_text('{"step": 1}\n{"step": 2}\n')
    assert tail.read() == [{"step": 2}]
    assert tail.read() == []


def test_tail_of_file_cut_back_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = EventTail(path)
    path.write_text('{"step": 1}\n{"step": 2}\n')
    tail.read()
    path.write_text('{"step": 1}\n')
    assert tail.read() == [{"step": 1}]


def test_progress_line_shows_latest_values(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = [
        {"kind": "step", "step": 10, "train/loss": 5.0, "perf/tokens_per_second": 1234.0},
        {"kind": "validation", "step": 10, "validation/bits_per_byte": 1.5},
        {"kind": "step", "step": 20, "train/loss": 4.25},
    ]
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    with TrainingProgress(path, num_steps=40) as progress:
        progress.update()
        expected = "step 20/40, loss 4.250, validation bits/byte 1.5000, tokens/s 1,234"
        assert progress.line() == expected
