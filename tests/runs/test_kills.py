"""A flow killed while it makes each of its stages: only the unit of work in flight is lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.flow_process import (
    PRETRAIN_STAGES,
    Home,
    built_at,
    digests,
    run_flow,
    running_flow,
    wait_for_work,
)
from tests.support.quality_labels import make_labelled
from tests.support.source_files import make_rows, write_parquet

STAGES_ON_REQUEST = (
    "evaluation_ngrams",
    "find_contamination",
    "train_quality_model",
    "score_quality",
    "select_quality",
    "publish_corpus",
)


def kill_during_each(
    stages: tuple[str, ...], *, home: Home, finished: Home, flow: str, **settings: object
) -> None:
    """Kill a run in every stage, run it to its end, and compare with one that nobody touched."""
    survivors: dict[str, str] = {}
    for stage in stages:
        if len(home.store.manifests(stage)) == len(finished.store.manifests(stage)):
            continue  # ran beside the stage before and was done when that was killed
        with running_flow(home, flow, **settings) as process:
            assert wait_for_work(home, stage, process), f"{stage} never began"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        now = built_at(home)
        assert survivors.items() <= now.items(), f"made again after the kill before {stage}"
        survivors = now
    assert run_flow(home, flow, **settings).returncode == 0
    assert survivors.items() <= built_at(home).items()
    assert digests(home) == digests(finished)


def make_homes(directory: Path, flow: str, **settings: object) -> tuple[Home, Home]:
    """Return an empty home, and one in which a flow has run to its end."""
    homes = Home(directory / "killed"), Home(directory / "finished")
    for home in homes:
        home.directory.mkdir()
    done = run_flow(homes[1], flow, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return homes


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_pretrain_killed_during_each_stage_loses_only_that_and_ends_the_same(
    tmp_path: Path,
) -> None:
    home, finished = make_homes(tmp_path, "pretrain")
    kill_during_each(PRETRAIN_STAGES, home=home, finished=finished, flow="pretrain")


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_publish_killed_during_each_stage_on_request_ends_the_same(tmp_path: Path) -> None:
    quiz = write_parquet(tmp_path / "quiz.parquet", make_rows(5))
    settings = {
        "decontamination__sets": json.dumps({"quiz": str(quiz)}),
        "quality_model__select": "top_fraction",
        "quality_model__labels": "local",
        "quality_model__path": str(make_labelled(tmp_path / "labelled.parquet", count=300)),
    }
    home, finished = make_homes(tmp_path, "publish", **settings)
    made = {item.artifact.stage for item in finished.store.manifests()}
    assert set(STAGES_ON_REQUEST) <= made
    kill_during_each(STAGES_ON_REQUEST, home=home, finished=finished, flow="publish", **settings)
