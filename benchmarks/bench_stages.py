"""Throughput of every data stage, and what a cached stage costs.

    python -m benchmarks.bench_stages [FOLDER OF PARQUET FILES] [--repeat 3]

Without a folder it measures the generated demo corpus. Each repeat prepares the corpus from nothing
in a new data root, one stage at a time in this process, then walks it again fully cached. Rates are
medians over the repeats, with minimum and maximum.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import describe
from flows.prepare import prepare_corpus
from flows.settings.config import PrepareConfig
from flows.settings.overrides import merged_config
from model.core.artifact import Artifact
from model.core.config import Config
from model.core.store import ArtifactStore
from tasks.engine.pipeline import Pipeline
from tasks.engine.stage import Call, Inputs, Stage, run_body
from tasks.stages.filter_documents import FilterDocumentsOutputs


@dataclass
class Cost:
    """Seconds that one stage took in one walk, over all its artifacts."""

    seconds: float = 0.0
    num_artifacts: int = 0


@dataclass
class Walk:
    """One walk over the DAG."""

    costs: dict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))


class TimedPipeline(Pipeline):
    """Runs each stage at once in this process, and takes its time."""

    def __init__(self, store: ArtifactStore, config: PrepareConfig) -> None:
        super().__init__(store, config.run)
        self.walk = Walk()

    def add(self, stage: Stage, name: str, *, config: Config, inputs: Inputs) -> Artifact:
        """Run a stage and return its artifact."""
        started = time.perf_counter()
        artifact = super().add(stage, name, config=config, inputs=inputs)  # plans only
        step = self.steps[artifact.key]
        if step.status.state != "complete":
            call = Call(stage, step.derivation, config, self._share(stage), self.store.root)
            run_body(call, self.store)
        cost = self.walk.costs[stage.name]
        cost.seconds += time.perf_counter() - started
        cost.num_artifacts += 1
        return artifact


def measure(config: PrepareConfig) -> tuple[Walk, Walk, int, int]:
    """Return the walk that makes a corpus, the cached walk after it, its documents and bytes."""
    with tempfile.TemporaryDirectory() as directory:
        store = ArtifactStore(Path(directory))
        made, cached = TimedPipeline(store, config), TimedPipeline(store, config)
        prepare_corpus(made, config)
        prepare_corpus(cached, config)
        filters = store.manifests("filter_documents")
        num_documents = sum(FilterDocumentsOutputs.counts_of(item).num_in for item in filters)
        num_bytes = sum(FilterDocumentsOutputs.facts_of(item).text_bytes for item in filters)
    return made.walk, cached.walk, num_documents, num_bytes


def table(made: list[Walk], cached: list[Walk], *, num_documents: int, num_bytes: int) -> str:
    """Return the measurement as a Markdown table."""
    rows = [
        "| stage | seconds (min-max) | MB/s | documents/s | cached, ms per artifact |",
        "|---|---:|---:|---:|---:|",
    ]
    for stage in made[0].costs:
        times = [walk.costs[stage].seconds for walk in made]
        seconds = statistics.median(times)
        checks = [
            1e3 * walk.costs[stage].seconds / walk.costs[stage].num_artifacts for walk in cached
        ]
        rows.append(
            f"| {stage} | {seconds:.2f} ({min(times):.2f}-{max(times):.2f}) "
            f"| {num_bytes / 1e6 / seconds:,.1f} | {num_documents / seconds:,.0f} "
            f"| {statistics.median(checks):.1f} |"
        )
    return "\n".join(rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", help="folder of parquet files")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    source = {"kind": "local", "path": options.folder} if options.folder else {"kind": "demo"}
    settings = {"vocab_size": 8_192 if options.folder else 1_280, "sample_bytes": 30_000_000}
    config = merged_config("demo", {"source": source, "tokenizer": settings}, kind=PrepareConfig)
    made, cached = [], []
    num_documents = num_bytes = 0
    for _ in range(options.repeat):
        first, second, num_documents, num_bytes = measure(config)
        made.append(first)
        cached.append(second)
    print(describe())
    print(f"\n{num_documents:,} documents, {num_bytes / 1e6:,.1f} MB of text\n")
    print(table(made, cached, num_documents=num_documents, num_bytes=num_bytes))


if __name__ == "__main__":
    main()
