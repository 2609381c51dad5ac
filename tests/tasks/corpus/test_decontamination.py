"""Decontamination against plain Python windows of words, and on planted items."""

import random
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.core.artifact import Manifest
from model.core.errors import ConfigError, SourceError, TransientDownloadError
from model.core.files import file_sha256
from model.core.store import ArtifactStore
from tasks.config.corpus import DecontaminationConfig
from tasks.corpus.decontamination import NgramIndex, find_contaminated, write_ngrams
from tasks.corpus.evalsets.sets import (
    EvaluationFile,
    evaluation_files,
    purpose,
    read_item_texts,
)
from tasks.corpus.sources.hub_client import MAX_ATTEMPTS
from tasks.corpus.sources.named_sets import ListedSet, list_sets
from tasks.engine.stage import ResourceShare
from tasks.stages.evaluation_ngrams import (
    EvaluationNgrams,
    EvaluationNgramsOutputs,
    build,
    evaluation_ngrams,
    listed_sets,
)
from tasks.stages.find_contamination import find_contamination
from tests.support.hub_pages import hub_environment
from tests.support.hub_server import HubServer
from tests.support.small_corpus import decide, document, planted_files, sign, write_part

ITEM = "Who was it that first climbed the high mountain in the north of the country"
ANSWER = "a shepherd called Tom who had lost his sheep"
REVISION = "0123456789abcdef" * 2 + "01234567"
SHARE = ResourceShare(threads=1, memory_bytes=10**9)


def write_set(path: Path, columns: dict[str, list]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def quiz(tmp_path: Path) -> Path:
    columns = {
        "query": ["Too short", ITEM],
        "choices": [["no", "yes"], ["nobody", ANSWER]],
        "gold": [0, 1],
    }
    return write_set(tmp_path / "quiz.parquet", columns)


def find(tmp_path: Path, texts: list[str], *sets: tuple[str, Path], **settings: int):
    config = DecontaminationConfig(**settings)
    index = tmp_path / "index"
    index.mkdir(exist_ok=True)
    files = [EvaluationFile(*item) for item in sets]
    write_ngrams(files, ngram_words=config.ngram_words, destination=index)
    rows = [document(text, row=row) for row, text in enumerate(texts)]
    part = write_part(tmp_path / "part.parquet", rows)
    found = find_contaminated(part, NgramIndex(index), config=config, destination=tmp_path)
    return found, pq.read_table(tmp_path / "contaminated.parquet").to_pylist()


def test_document_with_an_item_names_set_item_and_share(tmp_path: Path, quiz: Path) -> None:
    texts = [
        "nothing to see",
        f"Before it. {ITEM.upper()}! After it.",
        f"climbed the high mountain in the north of the country -- {ANSWER}",
        "Too short: no. " * 20,
    ]
    (counts, facts), rows = find(tmp_path, texts, ("quiz", quiz))
    assert [(row["row"], row["evaluation_set"], row["item"]) for row in rows] == [
        (1, "quiz", 1),
        (2, "quiz", 1),
    ]
    assert rows[0]["num_ngrams"] == len(ITEM.split()) - 12
    assert rows[1]["num_ngrams"] == 19 - 12
    assert (counts.num_in, counts.num_contaminated, facts.contamination) == (4, 2, {"quiz": 2})


def test_least_number_of_runs_spares_short_quotations(tmp_path: Path, quiz: Path) -> None:
    quotation = " ".join(ITEM.split()[:13])
    _, rows = find(tmp_path, [quotation, ITEM], ("quiz", quiz), min_ngrams=2)
    assert [row["row"] for row in rows] == [1]


def test_document_of_two_sets_counts_in_both(tmp_path: Path, quiz: Path) -> None:
    other = write_set(tmp_path / "other.parquet", {"text": [f"{ANSWER} and then found it again"]})
    text = f"{ITEM} {ANSWER} and then found it again"
    (_, facts), rows = find(tmp_path, [text], ("quiz", quiz), ("other", other))
    assert facts.contamination == {"quiz": 1, "other": 1}
    assert [(row["evaluation_set"], row["item"]) for row in rows] == [("quiz", 1)]


def test_text_of_two_sets_counts_in_both(tmp_path: Path, quiz: Path) -> None:
    other = write_set(tmp_path / "other.parquet", {"text": ["short", "short", ITEM, ITEM]})
    sets = [("quiz", quiz), ("other", other)]
    for order in (sets, sets[::-1]):
        (_, facts), rows = find(tmp_path, ["nothing to see", ITEM], *order)
        assert facts.contamination == {"quiz": 1, "other": 1}
        name = order[0][0]
        assert [(row["evaluation_set"], row["item"], row["num_ngrams"]) for row in rows] == [
            (name, {"quiz": 1, "other": 2}[name], len(ITEM.split()) - 12)
        ]
        _, rows = find(tmp_path, [ITEM], *order, min_ngrams=len(ITEM.split()) - 11)
        assert rows == []


def test_random_overlaps_agree_with_plain_python(tmp_path: Path) -> None:
    chance = random.Random(3)

    def texts(count: int) -> list[str]:
        return [" ".join(chance.choices("abc", k=chance.randrange(12))) for _ in range(count)]

    items = {name: texts(4) for name in ("x", "y", "z")}
    sets = [(name, write_set(tmp_path / f"{name}.parquet", {"t": items[name]})) for name in items]
    documents = [text for text in texts(200) if text]
    (_, facts), rows = find(tmp_path, documents, *sets, ngram_words=4, min_ngrams=2)
    windows = {
        name: {window for text in items[name] for window in _windows(text, size=4)}
        for name in items
    }
    expected = {}
    for row, text in enumerate(documents):
        shared = [
            {name for name in items if window in windows[name]}
            for window in _windows_in_order(text, size=4)
        ]
        if sum(map(bool, shared)) >= 2:
            expected[row] = (sum(map(bool, shared)), set().union(*shared))
    assert {row["row"]: row["num_ngrams"] for row in rows} == {
        row: num_ngrams for row, (num_ngrams, _) in expected.items()
    }
    assert 20 < len(expected) < len(documents)
    assert facts.contamination == {
        name: sum(name in met for _, met in expected.values()) for name in items
    }


def test_strings_of_structs_and_nested_lists_are_read(tmp_path: Path) -> None:
    columns = {
        "question": ["Who?", ""],
        "choices": [
            {"text": ["A cow", None, ""], "label": ["x", "y"], "score": 0.5},
            {"text": None, "label": ["z"], "score": None},
        ],
        "turns": [[["one", "two"], []], [None, ["three"]]],
        "number": [1, 2],
        "pairs": [[{"key": "k", "id": 1}], None],
    }
    items = read_item_texts(EvaluationFile("s", write_set(tmp_path / "s.parquet", columns)))
    assert items.columns == ["question", "choices.text", "choices.label", "turns", "pairs.key"]
    strings = ["Who?", "A cow", "x", "y", "one", "two", "k"]
    assert list(items.texts) == [
        [*strings, *(f"Who? {other}" for other in strings[1:])],
        ["z", "three", "z three"],
    ]


def test_item_in_a_struct_is_found_and_its_column_recorded(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "data")
    choices = [{"text": ["nobody", ANSWER], "label": ["A", "B"]}]
    arc = write_set(tmp_path / "arc.parquet", {"id": [7], "question": [ITEM], "choices": choices})
    manifest = make(store, DecontaminationConfig(sets={"arc": str(arc)}))
    assert EvaluationNgramsOutputs.facts_of(manifest).columns == {
        "arc": ["question", "choices.text", "choices.label"]
    }
    text = f"climbed the high mountain in the north of the country -- {ANSWER}"
    part = write_part(tmp_path / "part.parquet", [document(text)])
    index = NgramIndex(store.path(manifest.artifact))
    config = DecontaminationConfig()
    _, facts = find_contaminated(part, index, config=config, destination=tmp_path)
    assert facts.contamination == {"arc": 1}


def test_file_without_documents_is_fine(tmp_path: Path, quiz: Path) -> None:
    (counts, _), rows = find(tmp_path, [], ("quiz", quiz))
    assert (counts.num_in, rows) == (0, [])


def test_sets_of_short_items_only_are_refused(tmp_path: Path, quiz: Path) -> None:
    with pytest.raises(ConfigError, match="long enough") as caught:
        find(tmp_path, [], ("quiz", quiz), ngram_words=80)
    assert "decontamination.ngram_words" in str(caught.value)


@pytest.mark.parametrize("content", [b"no parquet", None])
def test_set_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = write_set(tmp_path / "bad.parquet", {"number": [1, 2]})
    if content:
        path.write_bytes(content)
    with pytest.raises(SourceError, match="evaluation set numbers") as caught:
        find(tmp_path, [], ("numbers", path))
    assert caught.value.where == path


@pytest.mark.parametrize("damage", ["cut", "page"])
def test_part_that_cannot_be_read_is_named(tmp_path: Path, quiz: Path, damage: str) -> None:
    find(tmp_path, [ITEM * 50], ("quiz", quiz))
    part = tmp_path / "part.parquet"
    content = part.read_bytes()
    part.write_bytes(content[:-9] if damage == "cut" else content[:4] + bytes(400) + content[404:])
    config = DecontaminationConfig()
    with pytest.raises(SourceError, match="cannot be read") as caught:
        find_contaminated(part, NgramIndex(tmp_path / "index"), config=config, destination=tmp_path)
    assert caught.value.where == part


def test_contaminated_documents_are_removed_and_named(tmp_path: Path, quiz: Path, limits) -> None:
    rows = [document(f"{ITEM} yes", row=0), document(f"{ITEM} yes", row=1), document("else", row=2)]
    find(tmp_path, [row["text"] for row in rows], ("quiz", quiz))
    files = sign(tmp_path, rows, limits)
    held_out = write_part(tmp_path / "validation.parquet", [])
    contaminated = [tmp_path / "contaminated.parquet"]
    (counts, _), removed, clusters = decide(
        tmp_path, files, held_out, limits, contaminated=contaminated
    )
    assert [(row["id"], row["kept_file"], row["kept_row"], row["kind"]) for row in removed] == [
        ("a/0", "quiz", 1, "contaminated"),
        ("a/1", "quiz", 1, "contaminated"),
    ]
    assert (counts.dropped["contaminated"], clusters) == (2, [])


def listed(tmp_path: Path, sets: dict[str, str]) -> dict[str, ListedSet]:
    return list_sets(sets, purpose=purpose("decontamination.sets"), cache=tmp_path / "cache")


def digests(tmp_path: Path, sets: dict[str, str]) -> dict[str, list[str]]:
    return {name: item.digests for name, item in listed(tmp_path, sets).items()}


def make(store: ArtifactStore, config: DecontaminationConfig | EvaluationNgrams) -> Manifest:
    """Make the stage's artifact, as it would go on after a failed attempt."""
    if isinstance(config, DecontaminationConfig):
        config = listed_sets(config, store=store)
    derivation = evaluation_ngrams.derive("sets", config=config, inputs={})
    return store.build(
        derivation, lambda work: build(work, config, SHARE), resume=evaluation_ngrams.resume
    )


def test_local_sets_are_known_by_their_content(tmp_path: Path, quiz: Path) -> None:
    copy = tmp_path / "folder" / "part.parquet"
    copy.parent.mkdir()
    copy.write_bytes(quiz.read_bytes())
    (copy.parent / "notes.jsonl").write_text("{}")
    found = [digests(tmp_path, {"quiz": str(place)}) for place in (quiz, copy, copy.parent)]
    assert found == [{"quiz": [file_sha256(quiz)]}] * 3
    sets = listed(tmp_path, {"quiz": str(copy.parent / "*.parquet")})
    files = evaluation_files(sets, downloads=tmp_path / "downloads")
    assert files == [EvaluationFile("quiz", copy)]


@pytest.mark.parametrize("name", ["nothing", "notes.jsonl"])
def test_missing_set_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.jsonl").write_text("{}")
    with pytest.raises(SourceError, match="evaluation set quiz") as caught:
        listed(tmp_path, {"quiz": str(tmp_path / name)})
    assert str(caught.value.where) == str(tmp_path / name)
    assert "decontamination.sets.quiz" in str(caught.value)


def test_order_of_sets_changes_neither_key_nor_bytes(tmp_path: Path, quiz: Path) -> None:
    other = write_set(tmp_path / "other.parquet", {"text": [f"{ANSWER} and then found it again"]})
    sets = {"quiz": str(quiz), "other": str(other)}
    made = []
    for place, order in enumerate((sets, dict(reversed(sets.items())))):
        store = ArtifactStore(tmp_path / str(place))
        made.append(make(store, DecontaminationConfig(sets=order)))
    assert made[0].artifact == made[1].artifact
    assert made[0].content_digest == made[1].content_digest


def test_key_of_ngrams_holds_what_they_are_made_of(tmp_path: Path, quiz: Path) -> None:
    store = ArtifactStore(tmp_path / "data")

    def key(**settings: Any) -> str:
        config = DecontaminationConfig(**{"sets": {"quiz": str(quiz)}} | settings)
        listed = listed_sets(config, store=store)
        return evaluation_ngrams.derive("sets", config=listed, inputs={}).key

    elsewhere = tmp_path / "elsewhere.parquet"
    elsewhere.write_bytes(quiz.read_bytes())
    assert key() == key(min_ngrams=9) == key(sets={"quiz": str(elsewhere)})
    assert len({key(), key(ngram_words=9), key(sets={"other": str(quiz)})}) == 3
    for stage in (evaluation_ngrams, find_contamination):
        assert f"unicode-{unicodedata.unidata_version}" in stage.algorithms["words"]


def test_set_that_changed_after_it_was_listed_is_refused(tmp_path: Path, quiz: Path) -> None:
    store = ArtifactStore(tmp_path / "data")
    config = listed_sets(DecontaminationConfig(sets={"quiz": str(quiz)}), store=store)
    write_set(quiz, {"text": [ITEM]})
    with pytest.raises(SourceError, match="changed after it was listed") as caught:
        make(store, config)
    assert caught.value.where == quiz


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub on loopback with two files of items, a deeper one and one of another kind."""
    root = tmp_path / "repository"
    for name in ("a", "b", "deeper/c"):
        write_set(root / f"data/{name}.parquet", {"text": [f"{name[0]} {ITEM}"]})
    (root / "data/notes.txt").write_text("no set")
    with (
        hub_environment(monkeypatch),
        HubServer(root, repo="owner/quiz", revision=REVISION) as server,
    ):
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


HUB_SETS = {"quiz": f"hub:owner/quiz@{REVISION}:data/*"}


def test_hub_set_is_listed_once_and_fetched_at_its_commit(tmp_path: Path, hub: HubServer) -> None:
    expected = {"quiz": [f"{REVISION}:data/{name}.parquet" for name in "ab"]}
    assert digests(tmp_path, HUB_SETS) == expected
    hub.reset_counts()
    assert digests(tmp_path, HUB_SETS) == expected
    assert not hub.num_requests
    sets = listed(tmp_path, HUB_SETS)
    files = evaluation_files(sets, downloads=tmp_path / "downloads")
    assert [pq.read_table(file.path)["text"].to_pylist() for file in files] == [
        [f"a {ITEM}"],
        [f"b {ITEM}"],
    ]


def test_hub_set_goes_on_after_an_outage_with_what_is_missing(
    tmp_path: Path, hub: HubServer
) -> None:
    store = ArtifactStore(tmp_path / "data")
    config = listed_sets(DecontaminationConfig(sets=HUB_SETS), store=store)
    hub.faults["data/b.parquet"] = ["truncate", *[503] * MAX_ATTEMPTS]
    with pytest.raises(TransientDownloadError):
        make(store, config)
    [work] = store.root.glob("evaluation_ngrams/*.work")
    (work / "items.npy.tmp").write_bytes(b"left by a kill")
    manifest = make(store, config)
    assert {file.path for file in manifest.files} == {"ngrams.npy", "items.npy", "sets.json"}
    for name in ("data/a.parquet", "data/b.parquet"):
        assert hub.bytes_sent[name] == (hub.root / name).stat().st_size


def test_hub_set_without_a_commit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="incomplete"):
        digests(tmp_path, {"quiz": "hub:owner/quiz@main:data/*.parquet"})


def test_planted_items_are_all_found_and_nothing_else(
    tmp_path: Path, limits, shared_data: Path
) -> None:
    truth = pq.read_table(shared_data / "web_planted/truth.parquet").to_pylist()
    planted = {row["id"] for row in truth if row["kind"] == "contaminated"}
    hellaswag = shared_data / "eval/hellaswag_validation.parquet"
    config = DecontaminationConfig()
    files = [EvaluationFile("h", hellaswag)]
    write_ngrams(files, ngram_words=config.ngram_words, destination=tmp_path)
    index = NgramIndex(tmp_path)
    found = set()
    for file in planted_files(tmp_path, shared_data / "web_planted", limits):
        find_contaminated(file.part, index, config=config, destination=tmp_path)
        found |= set(pq.read_table(tmp_path / "contaminated.parquet")["id"].to_pylist())
    assert planted <= found
    texts = _windows_of_hellaswag(hellaswag)
    for row in found - planted:  # a chance quotation, or a copy of a planted document
        assert any(window in texts for window in _windows(_text(shared_data, row)))


def _windows_in_order(text: str, *, size: int) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]


def _windows(text: str, *, size: int = 13) -> set[tuple[str, ...]]:
    return set(_windows_in_order(text, size=size))


def _windows_of_hellaswag(path: Path) -> set[tuple[str, ...]]:
    windows = set()
    for row in pq.read_table(path).to_pylist():
        for ending in row["endings"]:
            windows |= _windows(ending) | _windows(f"{row['ctx']} {ending}")
    return windows


def _text(shared_data: Path, document_id: str) -> str:
    for path in sorted((shared_data / "web_planted").glob("00*.parquet")):
        table = pq.read_table(path, filters=[("id", "=", document_id)])
        if table.num_rows:
            return table["text"][0].as_py()
    raise AssertionError(document_id)
