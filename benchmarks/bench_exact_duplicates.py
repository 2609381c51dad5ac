"""Exact deduplication on raw text: keys only, against DuckDB grouping whole rows by sha256.

    python -m benchmarks.bench_exact_duplicates FOLDER [--copies 4] [--repeat 3]

The documents are the parquet files of the folder, each written so many times, so that there is
much to find. Both sides have DuckDB on all cores, run in a process of their own, take turns, and
end with a table that names every surplus row and the row it repeats. Ours writes 128-bit keys of
each file, then groups keys; the peer is one statement, GROUP BY sha256(text) over rows with all
their columns. Memory is the peak of the process (Linux: VmHWM) less that of an idle interpreter.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import describe
from model.core.processes import num_cores
from tasks.corpus.dedup.clusters import remove_copies
from tasks.corpus.duckdb_connection import Limits, parquet_path, write_parquet

MEMORY_BYTES = 8_000_000_000

KEYS = """
SELECT
    $file AS file,
    file_row_number AS row,
    id,
    exact_key(text) AS exact_key,
    NULL::UUID AS normalised_key,
    length(text) AS num_chars,
    language_score,
    date
FROM read_parquet($part, file_row_number = true, hive_partitioning = false)
"""
NOTHING_REMOVED = """
CREATE TEMP TABLE removed (
    file VARCHAR, row BIGINT, id VARCHAR, kept_file VARCHAR, kept_row BIGINT, kept_id VARCHAR,
    kind VARCHAR, jaccard DOUBLE
)
"""
PEER = """
COPY (
    SELECT
        unnest(documents[2:]) AS surplus,
        documents[1].id AS kept
    FROM (
        SELECT list(document ORDER BY document.language_score DESC, document.id) AS documents
        FROM read_parquet($files) AS document
        GROUP BY sha256(document.text)
        HAVING count(*) > 1
    )
) TO $destination (FORMAT parquet)
"""


def ours(files: list[Path], scratch: Path) -> None:
    """Write removed.parquet from keys."""
    signatures = []
    with Limits(MEMORY_BYTES, num_cores(), scratch).connect() as connection:
        connection.execute(NOTHING_REMOVED)
        for path in files:
            signatures.append(scratch / f"{path.stem}.keys.parquet")
            values = {"part": parquet_path(path), "file": path.name}
            write_parquet(connection, KEYS, values=values, destination=signatures[-1])
        remove_copies(connection, signatures, match="exact")
        write_parquet(
            connection,
            "SELECT * FROM removed ORDER BY file, row",
            values={},
            destination=scratch / "removed.parquet",
        )


def peer(files: list[Path], scratch: Path) -> None:
    """Write removed.parquet from whole rows."""
    limits = {"threads": num_cores(), "memory_limit": f"{MEMORY_BYTES}B"}
    with duckdb.connect(config=limits) as duck:
        duck.execute(f"SET temp_directory = '{scratch / 'spill'}'")
        values = {"files": list(map(str, files)), "destination": str(scratch / "removed.parquet")}
        duck.execute(PEER, values)


SIDES = {"ours": ours, "peer": peer, "nothing": lambda _files, _scratch: None}


def measured(side: str, folder: Path) -> dict[str, float]:
    """Run one side in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench_exact_duplicates", str(folder)]
    done = subprocess.run([*command, "--side", side], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def run_side(side: str, folder: Path) -> None:
    """Print seconds, peak memory and what was found by one side."""
    files = sorted(folder.glob("*.parquet"))
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        started = time.perf_counter()
        SIDES[side](files, Path(scratch))
        seconds = time.perf_counter() - started
        table = Path(scratch) / "removed.parquet"
        found = pq.read_metadata(table).num_rows if table.exists() else 0
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes(), "found": found}))


def peak_bytes() -> int:
    """Return the most memory that this process ever had; getrusage would tell its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def table(runs: list[dict[str, dict[str, float]]], *, num_bytes: int) -> str:
    """Return the measurement as Markdown."""
    lines = ["| | seconds | MB/s | peak memory, MB |", "|---|---:|---:|---:|"]
    for side in ("ours", "peer"):
        seconds = statistics.median(run[side]["seconds"] for run in runs)
        peak = statistics.median(memory(run, side) for run in runs)
        lines.append(
            f"| {side} | {seconds:.2f} | {num_bytes / 1e6 / seconds:,.0f} | {peak / 1e6:,.0f} |"
        )
    speed = [run["peer"]["seconds"] / run["ours"]["seconds"] for run in runs]
    less = statistics.median(memory(run, "peer") / memory(run, "ours") for run in runs)
    spread = f"{min(speed):.1f}-{max(speed):.1f}"
    summary = f"{statistics.median(speed):.1f} times as fast ({spread}), 1/{less:.1f} of the memory"
    return "\n".join([*lines, "", summary])


def memory(run: dict[str, dict[str, float]], side: str) -> float:
    """Return the peak of one side, in bytes, without interpreter and imports."""
    return run[side]["peak_bytes"] - run["nothing"]["peak_bytes"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of parquet files")
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options.side, options.folder)
        return
    with tempfile.TemporaryDirectory() as directory:
        documents = Path(directory) / "documents"
        documents.mkdir()
        num_bytes = 0
        for path in sorted(options.folder.rglob("*.parquet")):
            for copy in range(options.copies):
                shutil.copy(path, documents / f"{path.stem}-{copy}.parquet")
            text = pq.read_table(path, columns=["text"])["text"].cast(pa.large_string())
            num_bytes += options.copies * sum(chunk.nbytes for chunk in text.chunks)
        runs = [{side: measured(side, documents) for side in SIDES} for _ in range(options.repeat)]
    found = {run[side]["found"] for run in runs for side in ("ours", "peer")}
    assert len(found) == 1, f"the sides differ: {found}"
    print(describe())
    print(f"\n{num_bytes / 1e6:,.0f} MB of text, {found.pop():,.0f} surplus rows\n")
    print(table(runs, num_bytes=num_bytes))


if __name__ == "__main__":
    main()
