"""The corpus funnel: counts of manifests, added up and held to it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from model.core.artifact import Manifest
from model.core.errors import ArtifactError
from tasks.engine.terminal import render
from tasks.reporting.funnel import funnel, funnel_table
from tests.support.small_pipeline import make_small_pipeline


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    return make_small_pipeline(tmp_path_factory.mktemp("store")).manifests


def with_counts(manifests: dict[str, Manifest], stage: str, **counts: int) -> Iterable[Manifest]:
    """Return the manifests with some counts of one stage changed."""
    changed = manifests[stage].counts | counts
    other = manifests[stage].model_copy(update={"counts": changed})
    return (manifests | {stage: other}).values()


def test_funnel_of_two_files_adds_their_reasons_up(manifests: dict[str, Manifest]) -> None:
    found = funnel(manifests.values())
    assert found.rejected == {"too_short": 9, "language": 11}
    assert found.duplicates == {"exact": 6, "normalised": 2, "validation": 5}
    assert (found.num_files, found.num_source, found.num_filtered) == (2, 100, 80)
    assert (found.num_training, found.num_validation) == (67, 5)
    assert found.num_training_tokens == 6700


def test_funnel_rows_lead_from_the_source_to_training(manifests: dict[str, Manifest]) -> None:
    rows = funnel(manifests.values()).as_rows()
    shown = {(row["stage"], row["what"]): row["documents"] for row in rows}
    assert shown == {
        ("download", "documents"): 100,
        ("filter_documents", "too_short"): -9,
        ("filter_documents", "language"): -11,
        ("filter_documents", "kept"): 80,
        ("duplicate_clusters", "exact"): -6,
        ("duplicate_clusters", "normalised"): -2,
        ("duplicate_clusters", "validation"): -5,
        ("write_shards", "training"): 67,
        ("select_validation", "validation"): 5,
    }
    walk = [row["documents"] for row in rows if row["what"] not in ("kept", "validation")]
    assert sum(walk[:-1]) - 5 == walk[-1]  # the -5 removed as `validation` was left out above
    assert rows[0]["percent"] == 100.0
    assert rows[1]["percent"] == -9.0


def test_funnel_counts_records_that_were_skipped_as_broken_beside_the_documents(
    manifests: dict[str, Manifest],
) -> None:
    before = funnel(manifests.values())
    assert before.num_skipped == 0
    assert "skipped" not in render(funnel_table(before))
    found = funnel(with_counts(manifests, "download", num_skipped_records=7))
    assert (found.num_skipped, found.num_source) == (7, 100)
    assert found.rows() == before.rows()
    assert "7 broken records skipped" in render(funnel_table(found))


def test_funnel_table_shows_every_row(manifests: dict[str, Manifest]) -> None:
    found = funnel(manifests.values())
    text = render(funnel_table(found))
    assert all(row["what"] in text and f"{row['documents']:,}" in text for row in found.as_rows())
    assert "6,700 training tokens" in text


@pytest.mark.parametrize(
    ("stage", "count", "words"),
    [
        ("filter-1", "too_short", r"num_in = 41, what it kept and dropped(.|\n)*found: 40"),
        ("duplicate_clusters", "exact", "num_in = 81, what it kept and dropped"),
        ("download", "num_documents", "101 documents in, as many as were downloaded"),
        ("shards-training", "num_docs", "num_docs = 67, what duplicate_clusters kept"),
    ],
)
def test_funnel_that_does_not_add_up_is_refused(
    manifests: dict[str, Manifest], stage: str, count: str, words: str
) -> None:
    one_more = {count: manifests[stage].counts[count] + 1}
    with pytest.raises(ArtifactError, match=words) as caught:
        funnel(with_counts(manifests, stage, **one_more))
    assert caught.value.problem == "the counts of the corpus do not add up"


def test_funnel_of_clusters_that_saw_other_documents_is_refused(
    manifests: dict[str, Manifest],
) -> None:
    with pytest.raises(ArtifactError, match="num_in = 80, what the filter kept"):
        funnel(with_counts(manifests, "duplicate_clusters", num_in=81, exact=7))


def test_funnel_without_training_shards_names_them(manifests: dict[str, Manifest]) -> None:
    rest = {key: value for key, value in manifests.items() if key != "shards-training"}
    with pytest.raises(ArtifactError, match="a manifest of write_shards/training"):
        funnel(rest.values())
