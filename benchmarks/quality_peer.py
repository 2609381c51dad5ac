"""Datatrove's quality filters over one parquet file: the peer of bench_quality.

Runs in an interpreter of its own (datatrove and spacy are not among this project's packages) and
imports nothing of this project. It is started by bench_quality, not by hand:

    PEER_PYTHON quality_peer.py time FILE DOCUMENTS
    PEER_PYTHON quality_peer.py verdicts FILE DOCUMENTS

``time`` prints one JSON line: documents, characters, and the seconds the filters took, without
imports. ``verdicts`` prints one JSON line a document: which rules, each alone, would drop the text;
what the four filters in a row say; and a digest of the text they leave.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from itertools import islice

import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

NO_REPETITION = {
    "dup_line_frac": None,
    "dup_para_frac": None,
    "dup_line_char_frac": None,
    "dup_para_char_frac": None,
    "top_n_grams": (),
    "dup_n_grams": (),
}
NO_QUALITY = {
    "min_doc_words": None,
    "max_doc_words": None,
    "min_avg_word_length": None,
    "max_avg_word_length": None,
    "max_symbol_word_ratio": None,
    "max_bullet_lines_ratio": None,
    "max_ellipsis_lines_ratio": None,
    "max_non_alpha_words_ratio": None,
    "min_stop_words": None,
}
NO_FINEWEB = {
    "line_punct_thr": -1.0,
    "short_line_thr": 2.0,
    "char_duplicates_ratio": 2.0,
    "new_line_ratio": 1e9,
}
NO_C4 = {
    "filter_no_terminal_punct": False,
    "filter_lorem_ipsum": False,
    "filter_curly_bracket": False,
    "min_num_sentences": -1,
}


def repetition(**more):
    """Return a Gopher repetition filter with only the given rules."""
    return GopherRepetitionFilter(**{**NO_REPETITION, **more})


def quality(**more):
    """Return a Gopher quality filter with only the given rules."""
    return GopherQualityFilter(**{**NO_QUALITY, **more})


def fineweb(**more):
    """Return a FineWeb filter with only the given rules."""
    return FineWebQualityFilter(**{**NO_FINEWEB, **more})


def c4(**more):
    """Return a C4 filter with only the given document rules."""
    return C4QualityFilter(**{**NO_C4, **more})


def rules() -> dict:
    """Return one datatrove filter for each rule, under this project's name of the rule."""
    top = {2: 0.20, 3: 0.18, 4: 0.16}
    duplicated = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
    return {
        "gopher_duplicate_paragraphs": repetition(dup_para_frac=0.3),
        "gopher_duplicate_paragraph_text": repetition(dup_para_char_frac=0.2),
        "gopher_duplicate_lines": repetition(dup_line_frac=0.3),
        "gopher_duplicate_line_text": repetition(dup_line_char_frac=0.2),
        **{f"gopher_top_{n}_gram": repetition(top_n_grams=((n, f),)) for n, f in top.items()},
        **{
            f"gopher_duplicate_{n}_grams": repetition(dup_n_grams=((n, f),))
            for n, f in duplicated.items()
        },
        "too_short": quality(min_doc_words=50),
        "too_long": quality(max_doc_words=100_000),
        "gopher_word_length": quality(min_avg_word_length=3, max_avg_word_length=10),
        "gopher_symbols": quality(max_symbol_word_ratio=0.1),
        "gopher_bullet_lines": quality(max_bullet_lines_ratio=0.9),
        "gopher_ellipsis_lines": quality(max_ellipsis_lines_ratio=0.3),
        "gopher_alphabetic_words": quality(max_non_alpha_words_ratio=0.8),
        "gopher_stop_words": quality(min_stop_words=2),
        "c4_lorem_ipsum": c4(filter_lorem_ipsum=True),
        "c4_curly_bracket": c4(filter_curly_bracket=True),
        "c4_few_sentences": c4(min_num_sentences=5),
        "fineweb_line_punctuation": fineweb(line_punct_thr=0.12),
        "fineweb_short_lines": fineweb(short_line_thr=0.67),
        "fineweb_duplicate_lines": fineweb(char_duplicates_ratio=0.01),
        "fineweb_newlines": fineweb(new_line_ratio=0.3),
    }


def chain() -> list:
    """Return the four filters of the FineWeb recipe."""
    return [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]


def passes(step, document: Document) -> bool:
    """Return whether one filter keeps a document; what it cannot divide by counts as dropped."""
    try:
        outcome = step.filter(document)
    except ZeroDivisionError:
        return False
    return outcome is True


def read(path: str, limit: int):
    """Yield the texts of the first documents of a file."""
    batches = pq.ParquetFile(path).iter_batches(batch_size=256, columns=["text"])
    texts = (text or "" for batch in batches for text in batch.column("text").to_pylist())
    return islice(texts, limit)


def run_chain(steps: list, text: str) -> str | None:
    """Return the text that the filters leave, or None."""
    document = Document(text=text, id="")
    for step in steps:
        if not passes(step, document):
            return None
    return document.text


def time_chain(path: str, limit: int) -> None:
    """Print how long the filters take for a file."""
    steps = chain()
    run_chain(steps, "One line of words. " * 30)  # loads the tokenizer
    started = time.perf_counter()
    num_documents = num_chars = 0
    for text in read(path, limit):
        run_chain(steps, text)
        num_documents += 1
        num_chars += len(text)
    seconds = time.perf_counter() - started
    print(json.dumps({"documents": num_documents, "chars": num_chars, "seconds": seconds}))


def print_verdicts(path: str, limit: int) -> None:
    """Print the verdict of every rule on each document of a file."""
    single, steps = rules(), chain()
    for text in read(path, limit):
        if not text.strip():
            print(json.dumps(None))
            continue
        drops = [name for name, rule in single.items() if not passes(rule, Document(text, ""))]
        left = run_chain(steps, text)
        digest = None if left is None else hashlib.sha256(left.encode()).hexdigest()
        print(json.dumps({"drops": drops, "left": digest}), flush=True)


if __name__ == "__main__":
    {"time": time_chain, "verdicts": print_verdicts}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
