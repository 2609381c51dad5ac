"""The whole DAG as a user runs it: made once, cached after, resumed after any kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from model.config.outputs import ScoreModelOutputs
from model.export.registry import fetch, find_version
from tests.support.flow_process import (
    MADE_OF_THE_MODEL,
    PRETRAIN_STAGES,
    Home,
    built_at,
    copy_of,
    digests,
    run_flow,
    running_flow,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Return the home of one finished small run; tests must not change it."""
    home = Home(tmp_path_factory.mktemp("finished"), from_nothing=True)
    done = run_flow(home, "pretrain")
    assert done.returncode == 0, done.stdout + done.stderr
    (home.directory / "said").write_text(done.stdout + done.stderr)
    return home


@pytest.fixture
def copied(finished: Home, tmp_path: Path) -> Home:
    """Return a home whose data is a copy of the finished run's, with an empty MLflow store."""
    shutil.copytree(finished.data, tmp_path / "data", symlinks=True)
    return Home(tmp_path)


def test_full_run_makes_every_stage_and_says_what_a_person_wants_to_know(finished: Home) -> None:
    assert {item.split("/")[0] for item in digests(finished)} == set(PRETRAIN_STAGES)
    said = (finished.directory / "said").read_text()
    for words in (
        "where the documents went",
        "[Tom]",
        "bits per byte",
        "corpus report:",
        "MLflow run:",
    ):
        assert words in said


def test_full_run_links_its_artifacts_with_the_tables_users_query(finished: Home) -> None:
    (run,) = (finished.data / "runs").iterdir()
    rejected = list(run.glob("filter_documents/*/rejected.parquet"))
    assert len(rejected) == 2
    names = pq.read_schema(rejected[0]).names
    assert names == ["file", "row", "id", "reason", "detail"]
    (removed,) = run.glob("duplicate_clusters/*/removed.parquet")
    assert pq.read_schema(removed).names == [
        "file", "row", "id", "kept_file", "kept_row", "kept_id", "kind", "jaccard",
    ]  # fmt: skip
    assert (next(run.glob("train_model/*/model")) / "model.safetensors").exists()
    assert json.loads((run / "config.json").read_text())["train"]["steps"] == 12
    assert not (run / "read_chats").exists()


def test_full_run_counts_add_up_from_stage_to_stage(finished: Home) -> None:
    counts = {
        (item.artifact.stage, item.artifact.name): item.counts
        for item in finished.store.manifests()
    }
    raw = sum(item["num_documents"] for (stage, _), item in counts.items() if stage == "download")
    kept = 0
    for (stage, _), item in counts.items():
        if stage == "filter_documents":
            reasons = {name: count for name, count in item.items() if not name.startswith("num_")}
            assert item["num_in"] == item["num_kept"] + sum(reasons.values())
            kept += item["num_kept"]
    clusters = counts["duplicate_clusters", "corpus"]
    removed = sum(count for name, count in clusters.items() if not name.startswith("num_"))
    shards = counts["write_shards", "training"]
    assert raw == 900
    assert clusters["num_in"] == kept == clusters["num_kept"] + removed
    assert shards["num_docs"] == clusters["num_kept"]
    assert shards["num_removed"] == removed


def test_full_run_again_is_cached_and_completes_an_empty_mlflow_store(copied: Home) -> None:
    before = built_at(copied)
    done = run_flow(copied, "pretrain")
    assert done.returncode == 0, done.stdout + done.stderr
    assert built_at(copied) == before
    assert done.stdout.count("Cached") + done.stderr.count("Cached") >= len(PRETRAIN_STAGES)

    client = MlflowClient(copied.mlflow_uri)
    (experiment,) = [
        item for item in client.search_experiments() if item.name == "llm-from-scratch"
    ]
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (training,) = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    history = client.get_metric_history(training.info.run_id, "train/loss")
    steps = [point.step for point in history]
    assert steps == sorted(set(steps))
    assert max(steps) == 12
    (pipeline,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert pipeline.data.metrics["validation/bits_per_byte"] > 0
    assert {item.dataset.name for item in pipeline.inputs.dataset_inputs}
    version = client.get_model_version_by_alias("demo-base", "candidate")
    assert int(version.version) == 1
    assert client.get_model_version_by_alias("demo-base", "champion").version == version.version
    folder = fetch(find_version("demo-base", uri=copied.mlflow_uri), cache=copied.directory / "c")
    assert "score_model: bits_per_byte" in (folder / "README.md").read_text()
    assert (folder / "model.gguf").exists()


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_full_run_after_tokenizer_is_deleted_makes_only_it(copied: Home) -> None:
    before = built_at(copied)
    (tokenizer,) = copied.data.glob("train_tokenizer/bpe-*")
    shutil.rmtree(tokenizer)
    assert run_flow(copied, "pretrain").returncode == 0
    after = built_at(copied)
    changed = {path for path in after if after[path] != before[path]}
    assert changed == {f"train_tokenizer/{tokenizer.name}"}


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_full_run_with_moved_data_root_makes_nothing(copied: Home, tmp_path: Path) -> None:
    before = built_at(copied)
    moved = Home(tmp_path / "elsewhere")
    moved.directory.mkdir()
    copied.data.rename(moved.data)
    assert run_flow(moved, "pretrain").returncode == 0
    assert built_at(moved) == before


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_two_runs_at_once_make_everything_once(tmp_path: Path, finished: Home) -> None:
    home = Home(tmp_path)
    with running_flow(home, "pretrain") as first, running_flow(home, "pretrain") as second:
        assert first.wait() == 0
        assert second.wait() == 0
    assert digests(home) == digests(finished)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_run_in_two_training_processes_scores_like_one(tmp_path: Path, finished: Home) -> None:
    home = copy_of(finished, tmp_path, without=MADE_OF_THE_MODEL)
    assert run_flow(home, "pretrain", train__processes=2).returncode == 0

    def bits_per_byte(of: Home) -> float:
        (manifest,) = of.store.manifests("score_model")
        return ScoreModelOutputs.facts_of(manifest).bits_per_byte

    assert bits_per_byte(home) == pytest.approx(bits_per_byte(finished), rel=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_sample_preset_on_real_text_runs_through(tmp_path: Path, shared_data: Path) -> None:
    home = Home(tmp_path)
    settings = {
        "source__kind": "local",
        "source__path": shared_data / "web" / "sample" / "10BT" / "000_00000.parquet",
        "source__max_documents": 2_000,
        "validation__num_documents": 100,
        "train__steps": 2,
        "train__processes": 2,
        "train__batch_tokens_per_step": 4_096,
        "train__micro_batch_rows": 2,
        "train__validation_tokens": 4_096,
        "score__validation_tokens": 4_096,
        "score__sample_tokens": 4,
    }
    done = run_flow(home, "pretrain", preset="sample", **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {item.split("/")[0] for item in digests(home)} == set(PRETRAIN_STAGES)
