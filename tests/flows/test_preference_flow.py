"""The flow finetune with preferences, as a user runs it: from demo text to a tuned chat model."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from model.config.outputs import TrainModelOutputs
from model.core.artifact import Artifact, Manifest
from model.train.events import read_events
from tests.support.flow_process import Home, copy_of, digests, run_flow, running_flow

TRAINING = {
    "steps": 12,
    "batch_tokens_per_step": 512,
    "micro_batch_rows": 4,
    "validate_every_steps": 6,
    "checkpoint_every_steps": 4,
}
SETTINGS: dict[str, object] = {
    "chat__demo_conversations": 200,
    "chat__max_held_out": 20,
    "preference__method": "dpo",
    "preference__demo_pairs": 60,
    "preference__max_held_out": 20,
    "model__context_tokens": 256,
    "train__batch_tokens_per_step": 1024,
    "finetune__talk__answer_tokens": 8,
} | {
    f"{group}__train__{name}": value
    for group in ("finetune", "preference")
    for name, value in (TRAINING | {"batch_tokens_per_step": 2048}).items()
}
SETTINGS["preference__train__steps"] = 60  # a kill comes late on a busy machine
WRITTEN_WITH_IT = ("score_model", "judge_texts", "export_model", "talk_to_model")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("finished"))
    done = run_flow(home, "finetune", **SETTINGS)
    assert done.returncode == 0, done.stdout + done.stderr
    (home.directory / "said").write_text(done.stdout + done.stderr)
    return home


def made(home: Home, stage: str, name: str) -> Manifest:
    (found,) = (item for item in home.store.manifests(stage) if item.artifact.name == name)
    return found


def inputs_of(manifest: Manifest, role: str) -> tuple[Artifact, ...]:
    return manifest.derivation.inputs[role]


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_finetune_with_preferences_exports_and_files_the_tuned_model(finished: Home) -> None:
    chat, tuned = (made(finished, "train_model", name) for name in ("chat", "preferred"))
    assert inputs_of(tuned, "init_from") == (chat.artifact,)
    assert inputs_of(made(finished, "export_model", "chat"), "model") == (tuned.artifact,)
    assert inputs_of(made(finished, "score_model", "chat"), "model") == (tuned.artifact,)
    assert set(TrainModelOutputs.facts_of(tuned).metrics) >= {
        "validation/loss",
        "validation/preference_accuracy",
        "validation/preference_margin",
        "validation/chosen_likelier_frac",
        "train/preference_accuracy",
    }
    assert "validation/bits_per_byte" not in TrainModelOutputs.facts_of(tuned).metrics
    said = (finished.directory / "said").read_text()
    assert "training preferred, predicted against actual:" in said
    assert "training chat, predicted against actual:" in said
    assert "a conversation with the chat model:" in said


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_finetune_with_preferences_counts_add_up(finished: Home) -> None:
    read = made(finished, "read_preferences", "demo").counts
    assert read["num_in"] == read["num_training"] + read["num_held_out"] == 80
    for name, num_in in (("training-demo", 60), ("validation", 20)):
        counts = made(finished, "write_preference_shards", name).counts
        assert counts["num_in"] == num_in == counts["num_kept"] + counts["too_long"]
        assert counts["num_rows"] == 2 * counts["num_kept"]


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_finetune_killed_while_it_learns_preferences_ends_the_same(
    finished: Home, tmp_path: Path
) -> None:
    home = copy_of(finished, tmp_path, without=("preferred", *WRITTEN_WITH_IT))
    with running_flow(home, "finetune", **SETTINGS) as process:
        wait_for_checkpoint(home, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert run_flow(home, "finetune", **SETTINGS).returncode == 0
    path = home.store.path(made(home, "train_model", "preferred").artifact)
    assert "resume" in [event["kind"] for event in read_events(path / "events.jsonl")]
    assert digests(home) == digests(finished)


def wait_for_checkpoint(home: Home, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        if any((home.data / "train_model").glob("preferred-*.work/checkpoints/step-*[0-9]")):
            return
        time.sleep(0.01)
    raise AssertionError((home.directory / "flow.log").read_text())
