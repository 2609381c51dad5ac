"""The acceptance script: its verdicts on made-up curves, and one real run of it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.accept import ANCHORS, NOT_RUN, anchor_bits_per_byte, curve_checks, resume_checks
from flows.settings.presets import PRESETS
from tasks.engine.launchers import num_gpus
from tests.support.flow_process import ROOT, SMALL, Home
from tests.support.small_tokenizer import SENTENCES, train_small_tokenizer

Event = dict[str, Any]


def training(first: int, last: int) -> list[Event]:
    steps = range(first, last + 1)
    return [{"kind": "train", "step": step, "train/tokens": 100 * step} for step in steps]


def validation(step: int, bits: float) -> Event:
    return {"kind": "validation", "step": step, "validation/bits_per_byte": bits}


def end(step: int, state: str) -> Event:
    return {"kind": "end", "step": step, "state": state}


INTERRUPTED = [
    *training(1, 5),
    end(5, "interrupted"),
    {"kind": "resume", "step": 5},
    *training(6, 10),
    end(10, "complete"),
]


def verdicts(raw: list[Event], *, stopped_at: int = 5) -> list[bool]:
    return [check.passed for check in resume_checks(raw, raw, stopped_at=stopped_at)]


def test_resume_checks_of_a_clean_interruption_pass() -> None:
    assert verdicts(INTERRUPTED) == [True, True, True]


def test_resume_checks_notice_lost_doubled_and_missing_work() -> None:
    assert verdicts(INTERRUPTED, stopped_at=6) == [False, True, True]  # step 6 was done
    earlier = [*INTERRUPTED[:6], {"kind": "resume", "step": 3}, *INTERRUPTED[7:]]
    assert verdicts(earlier) == [True, False, True]
    doubled = [*INTERRUPTED[:7], *training(5, 10), INTERRUPTED[-1]]
    assert verdicts(doubled) == [True, True, False]
    assert verdicts([*training(1, 10), end(10, "complete")]) == [False, False, True]


@pytest.mark.parametrize(
    ("bits", "num_tokens", "expected"),
    [(1.2, 900, True), (1.2, 800, True), (1.2, 700, False), (0.9, 10_000, False)],
)
def test_curve_checks_want_the_anchor_in_time(bits: float, num_tokens: int, expected: bool) -> None:
    events = [*training(1, 10), validation(4, 2.0), validation(8, 1.1), validation(10, 1.0)]
    falls, reached = curve_checks(events, bits_per_byte=bits, num_tokens=num_tokens)
    assert falls.passed
    assert reached.passed is expected


def test_curve_check_of_a_rising_validation_fails() -> None:
    events = [*training(1, 10), validation(4, 1.0), validation(10, 1.1)]
    falls, _ = curve_checks(events, bits_per_byte=1.0, num_tokens=10_000)
    assert not falls.passed
    assert falls.text().startswith("FAIL")


def test_anchor_is_converted_by_token_counts_or_a_tokenizer(tmp_path: Path) -> None:
    table = pa.table({"text": list(SENTENCES), "token_count": [20] * len(SENTENCES)})
    pq.write_table(table, tmp_path / "validation.parquet")
    num_bytes = sum(len(text.encode()) for text in SENTENCES)
    bits, source = anchor_bits_per_byte(ANCHORS["gpu-hour"], tmp_path / "validation.parquet", None)
    assert bits == pytest.approx(3.28 / math.log(2) / (num_bytes / (20 * len(SENTENCES))))
    assert "token_count" in source

    tokenizer = train_small_tokenizer(tmp_path / "tokenizer") / "tokenizer.json"
    counted, source = anchor_bits_per_byte(
        ANCHORS["gpu-hour"], tmp_path / "validation.parquet", tokenizer
    )
    assert "counted with tokenizer.json" in source
    assert counted > bits  # its 400 entries cut the text finer than 20 tokens a sentence


def test_every_preset_has_an_anchor() -> None:
    assert ANCHORS.keys() == PRESETS.keys()


def accept(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.accept", *arguments],
        cwd=ROOT,
        env=home.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.skipif(num_gpus() > 0, reason="a GPU is here: the big presets would run")
def test_accept_without_a_gpu_says_not_run(tmp_path: Path) -> None:
    done = accept(Home(tmp_path), "gpu-hour")
    assert done.returncode == NOT_RUN
    assert done.stdout == "gpu-hour: not run: needs a CUDA device\n"


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_accept_interrupts_resumes_and_judges(tmp_path: Path) -> None:
    home = Home(tmp_path)
    settings = SMALL | {"train.steps": 200, "train.checkpoint_every_steps": 1_000}
    sets = [part for item in settings.items() for part in ("--set", "{}={}".format(*item))]
    done = accept(home, "demo", *sets)
    assert done.returncode == 1, done.stdout + done.stderr
    said = [line for line in done.stdout.splitlines() if line[:4] in ("PASS", "FAIL")]
    assert [line[:4] for line in said] == ["PASS", "PASS", "PASS", "PASS", "FAIL"], said
    assert "anchor reached: never" in said[-1]  # so few steps are no demo
    assert "verdict: not accepted" in done.stdout
    (trained,) = home.store.manifests("train_model")
    lines = (home.store.path(trained.artifact) / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines].count("resume") == 1
