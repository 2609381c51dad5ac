"""flows.prepare: what one more file of a source makes new, and what a run says at its end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.prepare import prepare, prepare_corpus
from flows.settings.config import PrepareConfig
from model.core.store import ArtifactStore
from tasks.engine.pipeline import Pipeline
from tests.support.servers import local_mlflow_uri
from tests.support.settings import resolved_config
from tests.support.source_files import make_rows, write_parquet

WHOLE_CORPUS = {
    ("duplicate_clusters", "corpus"),
    ("write_shards", "training"),
    ("report_corpus", "corpus"),
}


def planned(source: Path, evaluation_set: Path, root: Path) -> dict[tuple[str, str], str]:
    """Return the keys of all artifacts of a corpus, by stage and name."""
    config = resolved_config(
        "sample",
        kind=PrepareConfig,
        source={"kind": "local", "path": str(source), "max_documents": None},
        decontamination={"sets": {"quiz": str(evaluation_set)}},
    )
    pipeline = Pipeline(ArtifactStore(root), config.run)
    prepare_corpus(pipeline, config)
    return {
        (step.stage.name, step.artifact.name): step.artifact.key for step in pipeline.steps.values()
    }


def test_one_more_file_runs_only_its_own_stages_and_those_of_the_corpus(tmp_path: Path) -> None:
    source = tmp_path / "source"
    quiz = write_parquet(tmp_path / "quiz.parquet", make_rows(3))
    for number in range(5):
        write_parquet(source / f"{number}.parquet", make_rows(10, first=10 * number))
    before = planned(source, quiz, tmp_path / "data")
    write_parquet(source / "5.parquet", make_rows(10, first=50))
    after = planned(source, quiz, tmp_path / "data")
    assert {step for step, key in before.items() if after[step] != key} == WHOLE_CORPUS
    own = {"download", "filter_documents", "signatures", "find_contamination", "tokenise"}
    assert {stage for stage, _ in after.keys() - before.keys()} == own
    assert len(after) == len(before) + len(own)


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
@pytest.mark.usefixtures("prefect_api")
def test_prepare_ends_with_where_the_documents_went_and_the_page_about_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LLM_DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local_mlflow_uri())
    lines = [json.dumps(row) for row in make_rows(300)] + ["no record"] * 3
    (tmp_path / "pages.jsonl").write_text("\n".join(lines))
    prepare(
        "demo",
        source={
            "kind": "local",
            "path": str(tmp_path / "pages.jsonl"),
            "on_broken_record": "skip",
        },
        filter={"score_language": "never"},
        validation={"num_documents": 20},
        tokenizer={"vocab_size": 320},
        run={"task_runner": "threads"},
    )
    said = caplog.text
    (page,) = (tmp_path / "data" / "report_corpus").glob("*/report.html")
    assert f"corpus report: {page}" in said
    table = said.partition("where the documents went:")[2]
    for words in ("download", "filter_documents", "training tokens", "3 broken records skipped"):
        assert words in table
    assert "3 broken records skipped" in page.read_text()
