"""Extending the horizon from a pre-decay checkpoint: the same bits as from scratch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from model.config.outputs import TrainingEnvironment, TrainModelOutputs
from model.config.runs import TrainRun
from model.config.train import TrainConfig
from model.core.store import read_manifest
from model.optim.schedule import flat_steps
from model.runtime.distributed import DistributedContext, StopRequest
from model.train.__main__ import make
from model.train.events import read_events
from model.train.extend_horizon import find_pre_decay_checkpoints
from tests.support.launched_training import artifact_path, weights
from tests.support.small_pipeline import filled
from tests.support.small_training import make_data_root, small_run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_data_root(tmp_path / "data")


def made(root: Path, **train: object) -> TrainRun:
    """Train to the end: half of the steps at full rate, validated at every step."""
    settings: dict[str, object] = {"decay_frac": 0.5, "validate_every_steps": 1}
    run = small_run(root, train=settings | train, when_parent_dies="go_on")
    with StopRequest() as stop:
        make(run, DistributedContext(), stop)
    return run


def values(run: TrainRun, key: str) -> dict[int, float]:
    events = read_events(artifact_path(run) / "events.jsonl")
    return {event["step"]: event[key] for event in events if key in event}


@pytest.mark.parametrize(
    ("steps", "decay_frac", "warmup_steps", "expected"),
    [(1000, 0.65, 40, 351), (1000, 1.0, 40, 38), (10, 0.0, 2, 10), (8, 0.5, 2, 5), (1, 0.65, 1, 1)],
)
def test_flat_steps_are_those_an_endless_training_has_too(
    steps: int, decay_frac: float, warmup_steps: int, expected: int
):
    train = TrainConfig(steps=steps, decay_frac=decay_frac, warmup_steps=warmup_steps)
    assert flat_steps(train) == expected


def test_longer_training_continues_from_the_pre_decay_checkpoint_and_equals_one_from_scratch(
    root: Path, tmp_path: Path
):
    short = made(root, steps=6)
    scratch = made(make_data_root(tmp_path / "other"), steps=12)
    longer = made(root, steps=12)
    assert weights(longer) == weights(scratch)
    for key in ("train/loss", "train/gradient_norm", "validation/loss"):
        assert values(longer, key) == values(scratch, key)
    assert list(values(longer, "train/loss")) == list(range(1, 13))

    manifests = [read_manifest(artifact_path(run)) for run in (longer, scratch)]
    origin = {"artifact": short.derivation.artifact.relative_path, "step": 4}
    assert manifests[0].facts["extended_from"] == origin
    assert "extended_from" not in manifests[1].facts
    assert manifests[0].counts == manifests[1].counts
    facts = TrainModelOutputs.facts_of(manifests[0])
    assert facts.num_steps == 12
    assert [item.step for item in facts.checkpoints if item.is_trunk] == [7]
    # Events up to the pre-decay checkpoint are the short training's own, times included.
    times = [
        {
            event["step"]: event["time"]
            for event in read_events(artifact_path(run) / "events.jsonl")
            if event["kind"] == "train"
        }
        for run in (short, longer)
    ]
    assert [times[0][step] == times[1][step] for step in range(1, 7)] == [True] * 4 + [False] * 2


def pre_decay_steps(
    root: Path,
    train: Mapping[str, object],
    environment: Mapping[str, str] | None = None,
    *,
    name: str = "tiny",
) -> list[int]:
    run = small_run(root, name=name, train={"decay_frac": 0.5, **train})
    here = filled(TrainingEnvironment, **{"precision": "float32", **(environment or {})})
    return [item.step for item in find_pre_decay_checkpoints(run, environment=here)]


def test_find_pre_decay_checkpoints_of_trainings_that_differ_in_their_horizon_alone(root: Path):
    made(root, steps=6, checkpoint_every_steps=1)
    assert pre_decay_steps(root, {"steps": 12}) == [
        4
    ]  # and not 5 and 6, where the rate was falling
    assert pre_decay_steps(root, {"steps": 12, "log_every_steps": 3}) == [4]
    assert pre_decay_steps(root, {"steps": 12}, name="another") == []
    assert pre_decay_steps(root, {"steps": 4}) == []  # flat up to 3
    assert pre_decay_steps(root, {"steps": 12}, {"precision": "bfloat16"}) == []
    assert pre_decay_steps(root, {"steps": 12}, {"compiling": "compiled in 9 s"}) == []
    for name, value in (("seed", 2), ("learning_rate", 2e-3), ("batch_tokens_per_step", 128)):
        assert pre_decay_steps(root, {"steps": 12, name: value}) == []


def test_training_beside_a_damaged_pre_decay_checkpoint_starts_from_scratch_and_says_so(
    root: Path, caplog: pytest.LogCaptureFixture
):
    short = made(root, steps=6)
    state = artifact_path(short) / "checkpoints" / "step-00000004" / "state.json"
    state.write_text("{}")
    with caplog.at_level(logging.WARNING):
        longer = made(root, steps=7)
    assert "state.json holds other bytes" in caplog.text
    kinds = [event["kind"] for event in read_events(artifact_path(longer) / "events.jsonl")]
    assert kinds[0] == "start"
    assert "extended" not in kinds
    assert list(values(longer, "train/loss")) == list(range(1, 8))
