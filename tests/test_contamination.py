"""Decontamination against plain Python windows of words, and on planted items."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import ConfigError, SourceError
from tasks.config import DecontaminationConfig
from tasks.corpus.contamination import (
    EvaluationFile,
    NgramIndex,
    find_contaminated,
    write_ngrams,
)
from tasks.corpus.evaluation_sets import evaluation_files, set_digests
from tests.hub_server import HubServer
from tests.small_corpus import (
    decide,
    document,
    planted_files,
    sign,
    write_part,
)

ITEM = "Who was it that first climbed the high mountain in the north of the country"
ANSWER = "a shepherd called Tom who had lost his sheep"
REVISION = "0123456789abcdef" * 2 + "01234567"


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
    write_ngrams([EvaluationFile(*item) for item in sets], config=config, destination=index)
    rows = [document(text, row=row) for row, text in enumerate(texts)]
    part = write_part(tmp_path / "part.parquet", rows)
    counts = find_contaminated(part, NgramIndex(index), config=config, destination=tmp_path)
    return counts, pq.read_table(tmp_path / "contaminated.parquet").to_pylist()


def test_document_with_an_item_names_set_item_and_share(tmp_path: Path, quiz: Path) -> None:
    texts = [
        "nothing to see",
        f"Before it. {ITEM.upper()}! After it.",
        f"climbed the high mountain in the north of the country -- {ANSWER}",
        "Too short: no. " * 20,
    ]
    counts, rows = find(tmp_path, texts, ("quiz", quiz))
    assert [(row["row"], row["evaluation_set"], row["item"]) for row in rows] == [
        (1, "quiz", 1),
        (2, "quiz", 1),
    ]
    assert rows[0]["num_ngrams"] == len(ITEM.split()) - 12
    assert rows[1]["num_ngrams"] == 19 - 12
    assert (counts.num_in, counts.num_contaminated, counts.num_by_set) == (4, 2, {"quiz": 2})


def test_least_number_of_runs_spares_short_quotations(tmp_path: Path, quiz: Path) -> None:
    quotation = " ".join(ITEM.split()[:13])
    _, rows = find(tmp_path, [quotation, ITEM], ("quiz", quiz), min_ngrams=2)
    assert [row["row"] for row in rows] == [1]


def test_document_of_two_sets_counts_in_both(tmp_path: Path, quiz: Path) -> None:
    other = write_set(tmp_path / "other.parquet", {"text": [f"{ANSWER} and then found it again"]})
    text = f"{ITEM} {ANSWER} and then found it again"
    counts, rows = find(tmp_path, [text], ("quiz", quiz), ("other", other))
    assert counts.num_by_set == {"quiz": 1, "other": 1}
    assert [(row["evaluation_set"], row["item"]) for row in rows] == [("quiz", 1)]


def test_file_without_documents_is_fine(tmp_path: Path, quiz: Path) -> None:
    counts, rows = find(tmp_path, [], ("quiz", quiz))
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


def test_contaminated_documents_are_removed_and_named(tmp_path: Path, quiz: Path, limits) -> None:
    rows = [document(f"{ITEM} yes", row=0), document(f"{ITEM} yes", row=1), document("else", row=2)]
    find(tmp_path, [row["text"] for row in rows], ("quiz", quiz))
    files = sign(tmp_path, rows, limits)
    held_out = write_part(tmp_path / "validation.parquet", [])
    contaminated = [tmp_path / "contaminated.parquet"]
    counts, removed, clusters = decide(tmp_path, files, held_out, limits, contaminated=contaminated)
    assert [(row["id"], row["kept_file"], row["kept_row"], row["kind"]) for row in removed] == [
        ("a/0", "quiz", 1, "contaminated"),
        ("a/1", "quiz", 1, "contaminated"),
    ]
    assert (counts.num_removed["contaminated"], clusters) == (2, [])


def test_local_sets_are_known_by_their_content(tmp_path: Path, quiz: Path) -> None:
    copy = tmp_path / "folder" / "part.parquet"
    copy.parent.mkdir()
    copy.write_bytes(quiz.read_bytes())
    digests = [set_digests({"quiz": str(place)}) for place in (quiz, copy, copy.parent)]
    assert digests[0] == digests[1] == digests[2]
    files = evaluation_files({"quiz": str(copy.parent / "*.parquet")}, downloads=tmp_path)
    assert files == [EvaluationFile("quiz", copy)]


def test_missing_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has no file") as caught:
        set_digests({"quiz": str(tmp_path / "nothing")})
    assert caught.value.where == tmp_path / "nothing"


def test_hub_set_is_fetched_at_its_commit(
    tmp_path: Path, quiz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "repository" / "data" / "quiz.parquet", {"text": [ITEM]})
    with HubServer(tmp_path / "repository", repo="owner/quiz", revision=REVISION) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        sets = {"quiz": f"hub:owner/quiz@{REVISION}:data/*.parquet"}
        assert set_digests(sets) == {"quiz": [sets["quiz"]]}
        assert not hub.num_requests
        (file,) = evaluation_files(sets, downloads=tmp_path / "downloads")
    assert pq.read_table(file.path)["text"].to_pylist() == [ITEM]


def test_hub_set_without_a_commit_is_refused() -> None:
    with pytest.raises(ConfigError, match="incomplete"):
        set_digests({"quiz": "hub:owner/quiz@main:data/*.parquet"})


def test_planted_items_are_all_found_and_nothing_else(
    tmp_path: Path, limits, shared_data: Path
) -> None:
    truth = pq.read_table(shared_data / "web_planted/truth.parquet").to_pylist()
    planted = {row["id"] for row in truth if row["kind"] == "contaminated"}
    hellaswag = shared_data / "eval/hellaswag_validation.parquet"
    config = DecontaminationConfig()
    write_ngrams([EvaluationFile("h", hellaswag)], config=config, destination=tmp_path)
    index = NgramIndex(tmp_path)
    found = set()
    for file in planted_files(tmp_path, shared_data / "web_planted", limits):
        find_contaminated(file.part, index, config=config, destination=tmp_path)
        found |= set(pq.read_table(tmp_path / "contaminated.parquet")["id"].to_pylist())
    assert planted <= found
    texts = _windows_of_hellaswag(hellaswag)
    for row in found - planted:  # a chance quotation, or a copy of a planted document
        assert any(window in texts for window in _windows(_text(shared_data, row)))


def _windows(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + 13]) for start in range(len(words) - 12)}


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
