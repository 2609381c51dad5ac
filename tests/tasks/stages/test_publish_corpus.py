"""A published corpus: it loads as the clean text, and its card names the sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import DatasetDict, load_dataset

from model.core.errors import CorpusError, SourceError
from tasks.config.corpus import PersonalDataConfig
from tasks.config.run import CardConfig
from tasks.corpus.publish.card import DatasetCounts, Provenance
from tasks.corpus.publish.dataset import DatasetFacts, write_dataset
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA
from tasks.corpus.sources.licences import LICENCES, Licence
from tests.support.prepared_corpus import SmallCorpus, document, make_corpus

FINEWEB = {"kind": "hub", "repo": "HuggingFaceFW/fineweb", "revision": "9bb295d"}


def provenance(source: Mapping[str, Any] | None = None) -> Provenance:
    return Provenance(
        source=source or FINEWEB,
        num_files=3,
        num_source=200,
        settings={
            "filter": {"language": "en", "min_words": 3},
            "personal_data": {"action": "mask"},
            "dedup": {"match": "normalised"},
        },
        rejected={"too_short": 20},
        removed={"exact": 10, "contaminated": 4, "validation": 5},
        low_quality={"low_quality": 8, "domain_cap": 1},
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> SmallCorpus:
    rows = {
        file: [
            document(
                None if row == 3 else f"{file} tells story number {row % 50} of many: – ü 😀",
                id=f"{file}-{row}",
                language_score=0.99 - row / 1000,
            )
            for row in range(60)
        ]
        for file in ("b", "a")
    }
    empty = {"c": [document("no"), document(None)], "d": []}
    return make_corpus(tmp_path_factory.mktemp("corpus"), rows | empty, num_validation=5)


def publish(
    corpus: SmallCorpus,
    folder: Path,
    *,
    card: CardConfig | None = None,
    source: Mapping[str, Any] | None = None,
    removed: Sequence[Path] = (),
    personal_data: PersonalDataConfig | None = None,
) -> tuple[DatasetCounts, DatasetFacts]:
    return write_dataset(
        corpus.files.parts,
        [*corpus.files.removed, *removed],
        corpus.validation,
        personal_data=personal_data or PersonalDataConfig(),
        provenance=provenance(source),
        card=card or CardConfig(),
        destination=folder,
    )


def load(folder: Path, cache: Path) -> DatasetDict:
    found = load_dataset(str(folder), cache_dir=str(cache))
    assert isinstance(found, DatasetDict)
    return found


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_published_corpus_loads_as_the_clean_text(corpus: SmallCorpus, tmp_path: Path) -> None:
    counts, _ = publish(corpus, tmp_path / "out")
    found = load(tmp_path / "out", tmp_path / "cache")
    assert set(found) == {"train", "validation"}
    assert found["train"].column_names == FINEWEB_SCHEMA.names
    kept = [{name: row[name] for name in FINEWEB_SCHEMA.names} for _, _, row in corpus.kept()]
    assert found["train"].to_list() == kept
    assert len(kept) == counts.num_docs
    held_out = pq.read_table(corpus.validation, columns=["text"])["text"].to_pylist()
    assert found["validation"]["text"][:] == held_out
    assert counts.num_validation == len(held_out) == 5
    assert not set(found["train"]["text"]) & set(held_out)


def test_published_corpus_leaves_out_what_any_table_removes(
    corpus: SmallCorpus, tmp_path: Path
) -> None:
    kept = corpus.kept()
    (copy, *_), low = pq.read_table(corpus.files.copies).to_pylist(), kept[::3]
    places = [(file, row) for file, row, _ in low] + [(copy["file"], copy["row"])]
    names, rows = zip(*places, strict=True)
    more = tmp_path / "removed_quality.parquet"
    pq.write_table(pa.table({"file": pa.array(names), "row": pa.array(rows)}), more)
    counts, facts = publish(corpus, tmp_path / "out", removed=[more])
    texts = [
        text
        for name in facts.files
        if "train" in name
        for text in pq.read_table(tmp_path / "out" / name)["text"].to_pylist()
    ]
    assert texts == [item["text"] for place, (_, _, item) in enumerate(kept) if place % 3]
    assert counts.num_docs == len(texts)


@pytest.mark.parametrize("action", ["mask", "report", "keep"])
def test_published_validation_is_masked_as_the_training_text_was(
    tmp_path: Path, action: Literal["mask", "report", "keep"]
) -> None:
    said = "Write to tom.smith@mailhost.net, or call"
    rests = [" ".join(f"{word}{row}" for word in "abcdefghijklmnopq") for row in range(4)]
    rows = [document(f"{said} 312-555-0165: {rest}") for rest in rests]
    corpus = make_corpus(tmp_path / "corpus", {"only": rows}, num_validation=2)
    settings = PersonalDataConfig(action=action, kinds=("email",))
    publish(corpus, tmp_path / "out", personal_data=settings)
    (path,) = (tmp_path / "out" / "data").glob("validation-*")
    table = pq.read_table(path)
    assert table.schema.equals(FINEWEB_SCHEMA)
    expected = said.replace("tom.smith@mailhost.net", "email@example.com")
    start = f"{expected if action == 'mask' else said} 312-555-0165: "
    texts = table["text"].to_pylist()
    assert len(texts) == 2
    assert all(text.startswith(start) for text in texts)
    untouched = pq.read_table(corpus.validation)["text"].to_pylist()
    assert all(text.startswith(said) for text in untouched)


def test_published_corpus_leaves_files_without_documents_out(
    corpus: SmallCorpus, tmp_path: Path
) -> None:
    _, facts = publish(corpus, tmp_path / "out")
    assert facts.files == [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/validation-00000-of-00001.parquet",
    ]
    on_disk = {p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.rglob("*.*")}
    assert on_disk == {"README.md", *facts.files}
    for name in facts.files:
        assert pq.read_schema(tmp_path / "out" / name).equals(FINEWEB_SCHEMA)


def test_published_corpus_again_has_the_same_bytes(corpus: SmallCorpus, tmp_path: Path) -> None:
    for name in ("one", "two"):
        publish(corpus, tmp_path / name)
    for path in (path for path in (tmp_path / "one").rglob("*") if path.is_file()):
        twin = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == twin.read_bytes()


def test_publishing_taken_up_again_keeps_whole_files_and_writes_others(
    corpus: SmallCorpus, tmp_path: Path
) -> None:
    recorded = publish(corpus, tmp_path)
    whole, cut, validation = (tmp_path / name for name in recorded[1].files)
    expected = cut.read_bytes()
    cut.write_bytes(expected[:-50])
    whole.with_suffix(".tmp").write_bytes(b"half")
    validation.unlink()
    written_at = whole.stat().st_mtime_ns
    assert publish(corpus, tmp_path) == recorded
    assert whole.stat().st_mtime_ns == written_at
    assert cut.read_bytes() == expected
    assert validation.exists()


def front_matter(folder: Path) -> tuple[dict[str, Any], str]:
    _, header, text = (folder / "README.md").read_text().split("---\n", maxsplit=2)
    return yaml.safe_load(header), text


def test_card_names_source_funnel_settings_and_licence(corpus: SmallCorpus, tmp_path: Path) -> None:
    counts, _ = publish(corpus, tmp_path)
    header, text = front_matter(tmp_path)
    assert header == {
        "pretty_name": "Clean text from HuggingFaceFW/fineweb",
        "license": "odc-by",
        "language": ["en"],
        "task_categories": ["text-generation"],
        "size_categories": ["n<1K"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": "train", "path": "data/train-*.parquet"},
                    {"split": "validation", "path": "data/validation-*.parquet"},
                ],
            }
        ],
    }
    for line in (
        '- `revision`: `"9bb295d"`',
        "| in the source | 200 | 100.0 % |",
        "| filter: too_short | -20 | -10.0 % |",
        "| copies: exact | -10 | -5.0 % |",
        "| text of evaluation sets | -4 | -2.0 % |",
        "| validation documents and what looks like them | -5 | -2.5 % |",
        "| quality model: low_quality | -8 | -4.0 % |",
        "| quality model: domain_cap | -1 | -0.5 % |",
        f"| training | {counts.num_docs} | {counts.num_docs / 2:.1f} % |",
        "- `filter.min_words`: `3`",
        '- `personal_data.action`: `"mask"`',
        '- `dedup.match`: `"normalised"`',
    ):
        assert line in text.splitlines()
    assert "Open Data Commons Attribution License" in text


def test_card_of_another_source_takes_name_and_licence_from_the_user(
    corpus: SmallCorpus, tmp_path: Path
) -> None:
    card = CardConfig(name='Say: "yes" # no', license="cc-by-sa-3.0")
    publish(corpus, tmp_path / "given", card=card, source={"kind": "local"})
    header, _ = front_matter(tmp_path / "given")
    assert (header["pretty_name"], header["license"]) == ('Say: "yes" # no', "cc-by-sa-3.0")
    publish(corpus, tmp_path / "not", source={"kind": "local"})
    header, text = front_matter(tmp_path / "not")
    assert header["license"] == "unknown"
    assert "look it up at the source before sharing" in text


def test_card_takes_the_licence_from_the_one_table(
    corpus: SmallCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LICENCES, FINEWEB["repo"], Licence("cc0-1.0", "public domain"))
    publish(corpus, tmp_path)
    header, text = front_matter(tmp_path)
    assert header["license"] == "cc0-1.0"
    assert "Of the source: public domain." in text


@pytest.mark.usefixtures("offline")
def test_published_corpus_of_one_document_loads(tmp_path: Path) -> None:
    rows = [document(None), document("this one is long enough"), document("so is this one")]
    corpus = make_corpus(tmp_path / "corpus", {"only": rows})
    publish(corpus, tmp_path / "out")
    assert load(tmp_path / "out", tmp_path / "cache").num_rows == {"train": 1, "validation": 1}


def test_publishing_a_corpus_without_documents_says_where_to_look(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", {"one": [document("a"), document("b")]}, min_words=9)
    with pytest.raises(CorpusError, match=r"nothing to publish(.|\n)*200 documents in the source"):
        publish(corpus, tmp_path / "out")


def test_publishing_a_damaged_part_names_it(corpus: SmallCorpus, tmp_path: Path) -> None:
    damaged = tmp_path / "part.parquet"
    damaged.write_bytes(corpus.files.parts["a"].read_bytes()[:-100])
    files = replace(corpus.files, parts=dict(corpus.files.parts) | {"a": damaged})
    with pytest.raises(SourceError, match="cannot be read") as caught:
        publish(replace(corpus, files=files), tmp_path / "out")
    assert caught.value.where == damaged
