"""Memory, time and disk of the whole flow prepare on many documents, and how they grow.

    python -m benchmarks.bench_memory FOLDER [--documents 100000 1000000] [--memory-gb 2]

The documents are made of real paragraphs of the parquet files of the folder, put together at random
to lengths like those of FineWeb (log-normal, median 1,800 characters). The flow runs as its own
command with preset `full` from a local source, on all cores. Memory is the sum over all its
processes, twice a second, of what is resident: what they share counts several times. CPU seconds
are those of all of them together.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import describe
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA

FILE_DOCUMENTS = 62_500
ROW_GROUP_ROWS = 1_000  # FineWeb's
MEDIAN_CHARS = 1_800
SIGMA = 0.98  # P90 is then 6,300 characters; FineWeb's is 6,095
POLL_SECONDS = 0.5
FULL_DOCUMENTS = 14_868_862  # of FineWeb's sample-10BT
LEAST_PARAGRAPH_CHARS = 40


@dataclass(frozen=True)
class Usage:
    """What one run took."""

    num_documents: int
    text_bytes: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    disk_bytes: int


def paragraphs(folder: Path) -> list[str]:
    """Return the paragraphs of all texts of a folder."""
    found: list[str] = []
    for path in sorted(folder.rglob("*.parquet")):
        for text in pq.read_table(path, columns=["text"])["text"].to_pylist():
            found += [part for part in text.split("\n") if len(part) >= LEAST_PARAGRAPH_CHARS]
    return found


def write_file(path: Path, number: int, num_documents: int, folder: Path) -> int:
    """Write one file of documents, and return the bytes of their text."""
    chance = random.Random(number)
    known = paragraphs(folder)
    rows, num_bytes = [], 0
    with pq.ParquetWriter(path, FINEWEB_SCHEMA, compression="zstd") as writer:
        for row in range(num_documents):
            wanted = chance.lognormvariate(math.log(MEDIAN_CHARS), SIGMA)
            parts, length = [], 0
            while length < wanted:
                parts.append(known[chance.randrange(len(known))])
                length += len(parts[-1])
            text = "\n".join(parts)
            num_bytes += len(text.encode())
            rows.append(
                {
                    "text": text,
                    "id": f"{number}-{row}",
                    "dump": "made",
                    "url": f"http://site-{chance.randrange(50_000)}.example/{row}",
                    "date": "2024-01-01T00:00:00Z",
                    "file_path": path.name,
                    "language": "en",
                    "language_score": round(chance.uniform(0.6, 1.0), 4),
                    "token_count": len(text) // 4,
                }
            )
            if len(rows) == ROW_GROUP_ROWS or row == num_documents - 1:
                writer.write_table(pa.Table.from_pylist(rows, schema=FINEWEB_SCHEMA))
                rows = []
    return num_bytes


def make_documents(folder: Path, destination: Path, count: int) -> int:
    """Write so many documents, and return the bytes of their text."""
    destination.mkdir()
    sizes = [FILE_DOCUMENTS] * (count // FILE_DOCUMENTS)
    if count % FILE_DOCUMENTS:
        sizes.append(count % FILE_DOCUMENTS)
    paths = [destination / f"{number:03d}.parquet" for number in range(len(sizes))]
    with ProcessPoolExecutor() as pool:
        numbers = range(len(sizes))
        return sum(pool.map(write_file, paths, numbers, sizes, [folder] * len(sizes)))


def measure(source: Path, home: Path, *, count: int, text_bytes: int, memory_gb: float) -> Usage:
    """Run the flow and watch it."""
    settings = {
        "source.kind": "local",
        "source.path": str(source),
        "tokenizer.sample_bytes": 100_000_000,
        "run.memory_gb": memory_gb,
    }
    command = [sys.executable, "-m", "flows.prepare", "--preset", "full"]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    own = {
        "LLM_DATA_ROOT": str(home / "data"),
        "PREFECT_HOME": str(home / "prefect"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}",
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    with (home / "flow.log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
        peak = _watch(process)
    if process.returncode:
        raise SystemExit((home / "flow.log").read_text()[-4000:])
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    disk = sum(path.stat().st_size for path in (home / "data").rglob("*") if path.is_file())
    return Usage(count, text_bytes, seconds, cpu, peak, disk)


def _watch(process: subprocess.Popen[bytes]) -> int:
    peak = 0
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        resident = 0
        try:
            for member in [watched, *watched.children(recursive=True)]:
                resident += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        peak = max(peak, resident)
        time.sleep(POLL_SECONDS)
    return peak


def table(runs: Sequence[Usage]) -> str:
    """Return the measurement as Markdown, with what it means for all of sample-10BT."""
    lines = [
        "| documents | text, MB | minutes | CPU ms per document | peak memory, MB | disk, MB |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {run.num_documents:,} | {run.text_bytes / 1e6:,.0f} | {run.seconds / 60:.1f} "
        f"| {1e3 * run.cpu_seconds / run.num_documents:.3f} | {run.peak_bytes / 1e6:,.0f} "
        f"| {run.disk_bytes / 1e6:,.0f} |"
        for run in runs
    ]
    first, last = runs[0], runs[-1]
    if first is not last:
        more = last.num_documents - first.num_documents
        slope = (last.peak_bytes - first.peak_bytes) / more
        rest = FULL_DOCUMENTS - last.num_documents
        hours = (last.seconds + rest * (last.seconds - first.seconds) / more) / 3600
        disk = last.disk_bytes * FULL_DOCUMENTS / last.num_documents
        lines.append(
            f"\nMemory grows by {slope:.0f} bytes a document. In proportion, {FULL_DOCUMENTS:,} "
            f"documents would take {hours:.1f} hours, "
            f"{(last.peak_bytes + slope * rest) / 1e9:.1f} GB of memory and {disk / 1e9:.0f} GB "
            "of disk"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of parquet files")
    parser.add_argument("--documents", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--memory-gb", type=float, default=2.0, help="run.memory_gb of the flow")
    parser.add_argument("--scratch", type=Path, help="where documents and artifacts are put")
    options = parser.parse_args()
    runs = []
    for count in options.documents:
        with tempfile.TemporaryDirectory(dir=options.scratch) as directory:
            home = Path(directory)
            text_bytes = make_documents(options.folder, home / "documents", count)
            run = measure(
                home / "documents",
                home,
                count=count,
                text_bytes=text_bytes,
                memory_gb=options.memory_gb,
            )
            runs.append(run)
            sys.stderr.write(json.dumps(run.__dict__) + "\n")
    print(describe())
    print(f"\n{table(runs)}")


if __name__ == "__main__":
    main()
