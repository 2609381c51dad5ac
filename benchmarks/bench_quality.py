"""Quality filters against datatrove's: speed, and how often the verdicts agree.

    python -m benchmarks.bench_quality FOLDER [--documents N] [--repeat 3] [--agreement N]
        [--peer PYTHON]

Takes the first N documents of each of the first two parquet files of a folder. Speed: two processes
on each side, one a file, in turns; ours read a file, judge it by profile ``fineweb`` and write the
part and the rejected rows; the peer's filters only judge, and its imports are not timed. Agreement:
each rule alone on the first documents of each file, the four filters in a row, and the edited text.

The peer runs in an interpreter of its own: `make peers`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import describe
from tasks.config.corpus import FilterConfig
from tasks.corpus.duckdb_connection import Limits
from tasks.corpus.filters.filter_file import filter_file
from tasks.corpus.filters.quality import apply_quality_rules
from tasks.corpus.filters.quality_lines import SENTENCE_RULES, edit_lines
from tasks.corpus.filters.quality_repetition import REPETITION_RULES, Repetition
from tasks.corpus.filters.quality_rules import (
    FINEWEB_RULES,
    GOPHER_RULES,
    FineWebQuality,
    GopherQuality,
    Measured,
    Rule,
    Verdicts,
)
from tasks.corpus.filters.text_buffer import TextBuffer
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA

PEER_SCRIPT = Path(__file__).with_name("quality_peer.py")
CONFIG = FilterConfig(profile="fineweb", min_language_score=0, max_dropped_frac=1.0)
PEER_NAMES = {"gopher_hashes": "gopher_symbols", "gopher_ellipses": "gopher_symbols"}
MEMORY_BYTES = 1_000_000_000


@dataclass
class Agreement:
    """Documents that a rule drops on each side, and those on which the sides differ."""

    ours: int = 0
    peers: int = 0
    differing: int = 0


def first_documents(folder: Path, count: int, destination: Path) -> list[Path]:
    """Write the first documents of the first two files of a folder; 0 takes them all."""
    found = sorted(folder.rglob("*.parquet"))[:2]
    if len(found) < 2:
        raise SystemExit(f"{folder} holds {len(found)} parquet files; two are needed")
    cut = []
    for place, path in enumerate(found):
        table = pq.read_table(path, columns=FINEWEB_SCHEMA.names)
        table = table.slice(0, count or table.num_rows).cast(FINEWEB_SCHEMA)
        cut.append(destination / f"{place}.parquet")
        pq.write_table(table, cut[-1], compression="zstd", row_group_size=1000)
    return cut


def filter_one(raw: Path) -> None:
    """Filter a file as the stage does."""
    with tempfile.TemporaryDirectory() as directory:
        limits = Limits(MEMORY_BYTES, 1, Path(directory))
        filter_file(raw, file=raw.name, config=CONFIG, destination=Path(directory), limits=limits)


def our_seconds(files: Sequence[Path], pool: ProcessPoolExecutor) -> float:
    """Return how long both files take on two processes."""
    started = time.perf_counter()
    list(pool.map(filter_one, files))
    return time.perf_counter() - started


def peer_seconds(files: Sequence[Path], python: str) -> float:
    """Return how long the slower of the peer's two processes takes, imports apart."""
    running = [
        subprocess.Popen([python, PEER_SCRIPT, "time", path, str(10**9)], stdout=subprocess.PIPE)
        for path in files
    ]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("the peer failed; see its message above")
    return max(json.loads(output)["seconds"] for output in outputs)


def texts_of(path: Path, count: int) -> list[str]:
    """Return the first texts of a file."""
    column = pq.read_table(path, columns=["text"])["text"].slice(0, count).cast(pa.string())
    return [text or "" for text in column.to_pylist()]


def our_drops(text: str) -> set[str]:
    """Return the rules that would drop a text, each alone, under the peer's names."""
    buffer, found = TextBuffer([text]), set[str]()
    for rules, measured in (
        (REPETITION_RULES, Repetition(buffer)),
        (GOPHER_RULES, GopherQuality(buffer)),
        (FINEWEB_RULES, FineWebQuality(buffer)),
    ):
        found |= {PEER_NAMES.get(name, name) for name in _dropping(rules, measured)}
    verdicts = Verdicts.none_yet(1)
    edits = edit_lines(buffer, verdicts, terminal_punctuation=False)
    found |= {reason for reason in verdicts.reasons if reason not in (None, "c4_no_lines")}
    found |= _dropping(SENTENCE_RULES, TextBuffer(edits.texts))
    return found | wrong_length(text)


def _dropping(rules: Sequence[Rule[Measured]], measured: Measured) -> set[str]:
    """Return the rules that drop the only document of a batch, each alone."""
    return {rule.reason for rule in rules if rule.drops(rule.measure(measured))[0]}


def wrong_length(text: str) -> set[str]:
    """Return whether our limits on words would drop a text."""
    if len(text.split()) < CONFIG.min_words:
        return {"too_short"}
    return {"too_long"} if len(text.split()) > CONFIG.max_words else set()


def compare(files: Sequence[Path], count: int, python: str) -> tuple[dict[str, Agreement], int]:
    """Return the agreement of each rule and of all together, and the number of documents."""
    found: dict[str, Agreement] = {}
    num_documents = 0
    for path in files:
        output = subprocess.run(
            [python, PEER_SCRIPT, "verdicts", path, str(count)], check=True, stdout=subprocess.PIPE
        ).stdout
        texts = texts_of(path, count)
        judged = apply_quality_rules(texts, terminal_punctuation=False)
        for place, line in enumerate(output.splitlines()):
            theirs = json.loads(line)
            if theirs is None:
                continue
            num_documents += 1
            text = texts[place]
            ours = our_drops(text)
            for rule in ours | set(theirs["drops"]):
                _count(found, rule, rule in ours, rule in theirs["drops"])
            stays = judged.reasons[place] is None and not wrong_length(text)
            left = hashlib.sha256(judged.texts[place].encode()).hexdigest() if stays else None
            _count(found, "all rules in a row", not stays, theirs["left"] is None)
            if stays and theirs["left"] is not None:
                _count(found, "edited text of kept documents", left != theirs["left"], False)
    return found, num_documents


def _count(found: dict[str, Agreement], rule: str, ours: bool, peers: bool) -> None:
    counts = found.setdefault(rule, Agreement())
    counts.ours += ours
    counts.peers += peers
    counts.differing += ours != peers


def agreement_table(found: dict[str, Agreement], num_documents: int) -> str:
    """Return the agreement as a Markdown table; rules that no document met are left out."""
    rows = [
        f"| rule ({num_documents:,} documents) | ours drops | peer drops | differ | agreement |",
        "|---|---:|---:|---:|---:|",
    ]
    for rule, counts in sorted(found.items()):
        share = 1 - counts.differing / max(1, num_documents)
        rows.append(
            f"| {rule} | {counts.ours} | {counts.peers} | {counts.differing} | {share:.2%} |"
        )
    return "\n".join(rows)


def speed_table(times: dict[str, list[float]], *, num_documents: int, num_bytes: int) -> str:
    """Return the speed as a Markdown table."""
    rows = [
        "| two processes | seconds (min-max) | documents/s | MB/s |",
        "|---|---:|---:|---:|",
    ]
    for side, seconds in times.items():
        median = statistics.median(seconds)
        rows.append(
            f"| {side} | {median:.2f} ({min(seconds):.2f}-{max(seconds):.2f}) "
            f"| {num_documents / median:,.1f} | {num_bytes / 1e6 / median:,.2f} |"
        )
    ratios = [peer / ours for ours, peer in zip(*times.values(), strict=True)]
    spread = f"{min(ratios):.1f}-{max(ratios):.1f}"
    return "\n".join([*rows, f"\nratio of pairs: {statistics.median(ratios):.1f}x ({spread})"])


def require_peer(python: str) -> None:
    """Stop with advice if the peer's interpreter cannot import it."""
    probe = [python, "-c", "import datatrove, spacy, pyarrow"]
    try:
        subprocess.run(probe, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(
            f"no peer: {python} cannot import datatrove, spacy and pyarrow ({error})\n"
            f"make it so:\n    python -m venv .venv/peers\n"
            f"    .venv/peers/bin/pip install datatrove==0.10.1 spacy nltk regex pyarrow\n"
            "or name another interpreter with --peer"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=0, help="of each file; 0 = all")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--agreement", type=int, default=1000, help="documents of each file")
    parser.add_argument("--peer", default=".venv/peers/bin/python", help="interpreter")
    options = parser.parse_args()
    require_peer(options.peer)
    with tempfile.TemporaryDirectory() as directory:
        files = first_documents(options.folder, options.documents, Path(directory))
        texts = [text for path in files for text in texts_of(path, 10**9)]
        size = {
            "num_documents": len(texts),
            "num_bytes": sum(len(text.encode()) for text in texts),
        }
        times: dict[str, list[float]] = {"ours": [], "datatrove": []}
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            our_seconds(files, pool)  # starts the processes
            for _ in range(options.repeat):
                times["ours"].append(our_seconds(files, pool))
                times["datatrove"].append(peer_seconds(files, options.peer))
        print(describe())
        print(f"\n{size['num_documents']:,} documents, {size['num_bytes'] / 1e6:,.1f} MB of text\n")
        print(speed_table(times, **size), flush=True)
        if options.agreement:
            found, num_documents = compare(files, options.agreement, options.peer)
            print(f"\n{agreement_table(found, num_documents)}")


if __name__ == "__main__":
    main()
