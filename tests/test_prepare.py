"""flows.prepare: what one more file of a source makes new."""

from __future__ import annotations

from pathlib import Path

from flows.overrides import resolve
from flows.prepare import prepare_corpus
from flows.presets import PrepareConfig
from model.store import ArtifactStore
from tasks.pipeline import Pipeline
from tests.source_files import make_rows, write_parquet

WHOLE_CORPUS = {
    ("duplicate_clusters", "corpus"),
    ("write_shards", "training"),
    ("report_corpus", "corpus"),
}


def planned(source: Path, evaluation_set: Path, root: Path) -> dict[tuple[str, str], str]:
    """Return the keys of all artifacts of a corpus, by stage and name."""
    config = resolve(
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


def test_one_more_file_makes_only_its_own_stages_and_the_whole_corpus_anew(tmp_path: Path) -> None:
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
