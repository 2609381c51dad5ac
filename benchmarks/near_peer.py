"""datatrove's MinHash deduplication of a folder of parquet files: prints its seconds as JSON.

    python near_peer.py FOLDER SCRATCH

Signatures on two processes, buckets on two, then clustering: every step that decides what goes.
Its own filter, which writes the texts again, is left out, and so are imports. Runs in an
interpreter that has datatrove 0.10.1, spacy and pyarrow, and nothing of this project.
"""

import json
import sys
import time
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
from datatrove.pipeline.readers import ParquetReader
from datatrove.utils.hashing import HashConfig

BANDS = 14


def main() -> None:
    """Run the three steps and print how long they took and how many documents they would remove."""
    folder, scratch = sys.argv[1:]
    config = MinhashConfig(
        hash_config=HashConfig(precision=64), num_buckets=BANDS, hashes_per_bucket=8, n_grams=5
    )
    steps = [
        (
            2,
            [
                ParquetReader(folder, glob_pattern="*.parquet"),
                MinhashDedupSignature(output_folder=f"{scratch}/signatures", config=config),
            ],
        ),
        (
            BANDS,
            [
                MinhashDedupBuckets(
                    input_folder=f"{scratch}/signatures",
                    output_folder=f"{scratch}/buckets",
                    config=config,
                )
            ],
        ),
        (
            1,
            [
                MinhashDedupCluster(
                    input_folder=f"{scratch}/buckets",
                    output_folder=f"{scratch}/removed",
                    config=config,
                )
            ],
        ),
    ]
    started = time.perf_counter()
    for number, (tasks, pipeline) in enumerate(steps):
        LocalPipelineExecutor(
            pipeline=pipeline, tasks=tasks, workers=2, logging_dir=f"{scratch}/logs/{number}"
        ).run()
    seconds = time.perf_counter() - started
    removed = sum(path.stat().st_size // 4 for path in Path(scratch).glob("removed/*.remove"))
    sys.stdout.write(json.dumps({"seconds": seconds, "removed": removed}) + "\n")


if __name__ == "__main__":
    main()
