"""The training process: real children, killed, stopped, and side by side."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from model.config.outputs import TrainModelOutputs
from model.config.runs import EXIT_INTERRUPTED, TrainResult, TrainRun
from model.core.errors import ConfigError
from model.core.store import ArtifactStore
from model.runtime.distributed import DistributedContext, StopRequest
from model.train.__main__ import main, make
from model.train.events import read_events
from tests.support.launched_training import artifact_path, weights
from tests.support.small_training import (
    lines_until,
    make_data_root,
    small_run,
    start_child,
    write_config,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_root(tmp_path_factory.mktemp("data"))


def run_here(run: TrainRun) -> TrainResult:
    with StopRequest() as stop:
        return make(
            run.model_copy(update={"when_parent_dies": "go_on"}), DistributedContext(), stop
        )


def work_path(run: TrainRun) -> Path:
    return ArtifactStore(Path(run.data_root)).work_path(run.derivation.artifact)


def values(run: TrainRun, key: str = "train/loss") -> dict[int, float]:
    events = read_events(artifact_path(run) / "events.jsonl")
    return {event["step"]: event[key] for event in events if event["kind"] == "train"}


def finish(child: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = child.communicate()
    return child.returncode, output


def test_train_killed_at_a_checkpoint_and_run_again_equals_train_at_once(
    root: Path, tmp_path: Path
):
    whole, parts = (small_run(root, name=name, train={"steps": 24}) for name in ("whole", "killed"))
    run_here(whole)
    config = write_config(parts, tmp_path)
    child = start_child(config)
    assert any(": checkpoint: " in line for line in lines_until(child, ": checkpoint: "))
    child.kill()
    finish(child)
    assert child.returncode == -signal.SIGKILL
    assert work_path(parts).is_dir()
    assert not (tmp_path / "result.json").exists()

    code, output = finish(start_child(config))
    assert code == 0, output
    assert ": resume: " in output
    assert weights(parts) == weights(whole)
    assert values(parts) == values(whole)
    assert list(values(parts)) == list(range(1, 25))


def test_train_terminated_saves_reports_and_resumes_later(root: Path, tmp_path: Path):
    train = {"steps": 60, "checkpoint_every_steps": 1000}
    whole, parts = (small_run(root, name=name, train=train) for name in ("calm", "stopped"))
    run_here(whole)
    child = start_child(write_config(parts, tmp_path))
    assert any("step 3 of" in line for line in lines_until(child, "step 3 of"))
    child.terminate()
    code, output = finish(child)
    assert code == EXIT_INTERRUPTED, output
    result = TrainResult.load(tmp_path / "result.json")
    assert result.state == "interrupted"
    assert result.step is not None
    assert 3 <= result.step < 60
    assert [path.name for path in (work_path(parts) / "checkpoints").iterdir()] == [
        f"step-{result.step:08d}"
    ]
    assert not artifact_path(parts).exists()

    assert run_here(parts).state == "complete"
    assert weights(parts) == weights(whole)
    assert values(parts) == values(whole)


def test_train_in_two_processes_gives_the_losses_of_one(root: Path, tmp_path: Path):
    train = {"steps": 6, "micro_batch_rows": 1}  # two micro-batches each: one is not synchronised
    alone, both = (small_run(root, name=name, train=train) for name in ("alone", "both"))
    run_here(alone)
    code, output = finish(start_child(write_config(both, tmp_path), num_processes=2))
    assert code == 0, output
    # Clipping and Adam hide a gradient of another scale from the losses, so the norms are compared.
    for key in ("train/loss", "train/gradient_norm"):
        assert values(both, key) == pytest.approx(values(alone, key), rel=1e-5)
    result = TrainResult.load(tmp_path / "result.json")
    assert (result.state, result.step) == ("complete", 6)
    store = ArtifactStore(root)
    manifests = [store.verify(run.derivation.artifact) for run in (alone, both)]
    assert [TrainModelOutputs.facts_of(item).num_processes for item in manifests] == [1, 2]
    assert manifests[0].counts == manifests[1].counts
    assert TrainModelOutputs.facts_of(manifests[1]).validation_loss == pytest.approx(
        TrainModelOutputs.facts_of(manifests[0]).validation_loss, rel=1e-5
    )


@pytest.mark.slow
def test_train_in_two_processes_of_a_finished_artifact_leaves(root: Path, tmp_path: Path):
    run = small_run(root, name="finished", train={"steps": 2})
    run_here(run)
    before = (artifact_path(run) / "manifest.json").read_bytes()
    code, output = finish(start_child(write_config(run, tmp_path), num_processes=2))
    assert code == 0, output
    assert "step 1 of" not in output
    assert TrainResult.load(tmp_path / "result.json").step == 2
    assert (artifact_path(run) / "manifest.json").read_bytes() == before


@pytest.mark.slow
def test_train_in_two_processes_terminated_resumes_later(root: Path, tmp_path: Path):
    train = {"steps": 200, "checkpoint_every_steps": 1000}
    run = small_run(root, name="two-stopped", train=train)
    config = write_config(run, tmp_path)
    child = start_child(config, num_processes=2)
    assert any("step 3 of" in line for line in lines_until(child, "step 3 of"))
    child.terminate()
    code, output = finish(child)
    assert code != 0
    result = TrainResult.load(tmp_path / "result.json")
    assert result.state == "interrupted", output
    code, output = finish(start_child(config, num_processes=2))
    assert code == 0, output
    assert f"step {result.step} of 200: resume" in output
    assert list(values(run)) == list(range(1, 201))


@pytest.mark.slow
def test_train_twice_at_once_builds_once(root: Path, tmp_path: Path):
    run = small_run(root, name="twice", train={"steps": 30})
    children = [start_child(write_config(run, tmp_path / name)) for name in ("first", "second")]
    outputs = [finish(child) for child in children]
    assert [code for code, _ in outputs] == [0, 0]
    assert sum("step 1 of 30" in output for _, output in outputs) == 1
    results = [TrainResult.load(tmp_path / name / "result.json") for name in ("first", "second")]
    assert results[0] == results[1]


def test_train_content_is_the_model_alone(root: Path):
    run = small_run(root, name="content", train={"steps": 2})
    result = run_here(run)
    manifest = ArtifactStore(root).read_manifest(run.derivation.artifact)
    content = [entry.path for entry in manifest.files if entry.role == "content"]
    assert content == ["model/architecture.json", "model/model.safetensors"]
    logs = {entry.path.split("/")[0] for entry in manifest.files if entry.role == "log"}
    assert logs == {"checkpoints", "events.jsonl", "result.json"}
    assert TrainResult.load(artifact_path(run) / "result.json") == result
    assert result.metrics["validation/loss"] == TrainModelOutputs.facts_of(manifest).validation_loss


def test_train_of_a_finished_artifact_answers_the_same_again(root: Path):
    run = small_run(root, name="again", train={"steps": 2})
    first = run_here(run)
    events = (artifact_path(run) / "events.jsonl").read_bytes()
    assert run_here(run) == first
    assert (artifact_path(run) / "events.jsonl").read_bytes() == events


def test_main_with_an_unknown_field_reports_it_in_the_result(tmp_path: Path, root: Path):
    config = write_config(small_run(root, train={"steps": 1}), tmp_path)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"epochs": 3}))
    (tmp_path / "result.json").write_text("stale")
    with pytest.raises(ConfigError, match="config of a child process cannot be read"):
        main(["--config", str(config)])
    result = TrainResult.load(tmp_path / "result.json")
    assert result.state == "failed"
    assert result.error is not None
    assert result.error.type == "ConfigError"
    assert "epochs" in (result.error.found or "")
    assert result.error.fix


def test_main_without_shards_reports_what_is_missing(tmp_path: Path, root: Path):
    run = small_run(
        root, name="no-shards", train={"steps": 1}, validation="nowhere", when_parent_dies="go_on"
    )
    with pytest.raises(Exception, match="nowhere") as error:
        main(["--config", str(write_config(run, tmp_path))])
    result = TrainResult.load(tmp_path / "result.json")
    assert result.error is not None
    assert result.error.type == type(error.value).__name__
    assert work_path(run).is_dir()
