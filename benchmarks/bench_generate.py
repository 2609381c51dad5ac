"""Tokens per second of our generation and of transformers' on the same exported model.

    python -m benchmarks.bench_generate [--size 27m] [--tokens 256] [--rounds 3] [--threads N]

Both write greedily with a cache, from the same prompts, in fp32, on the same number of threads; a
round measures one after the other, so that a busy machine is busy for both. Loading is not
measured. Medians over the rounds; the table is Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from benchmarks.exported_model import exported_model
from benchmarks.machine import describe
from model.config.network import GEOMETRIES
from model.export.hf_reader import load_pretrained
from model.inference.decoder import Decoder
from model.inference.generate import generate_batch
from model.inference.sampling import GREEDY

PROMPT_TOKENS = 16


def main() -> None:
    """Measure batch 1 and 8 and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="27m", choices=GEOMETRIES)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(describe(), f"\n\n{options.tokens} new tokens, {torch.get_num_threads()} threads\n")
    print("| batch | transformers, tokens/s | ours, tokens/s | ratio | same tokens |")
    print("|---|---|---|---|---|")
    with exported_model(options.size) as folder:
        for batch in (1, 8):
            line = row(folder, batch=batch, num_tokens=options.tokens, rounds=options.rounds)
            print(line, flush=True)


def row(folder: Path, *, batch: int, num_tokens: int, rounds: int) -> str:
    """Return one row of the table: medians over the rounds."""
    decoder = Decoder(load_pretrained(folder).model)
    peer = AutoModelForCausalLM.from_pretrained(folder)
    # Not the sampling defaults of the folder: no repetition penalty, no end before the last token.
    greedy = GenerationConfig(max_new_tokens=num_tokens, do_sample=False, use_cache=True)
    peer.generation_config = greedy
    generator = torch.Generator().manual_seed(2)
    vocab_size = decoder.architecture.vocab_size
    prompts = torch.randint(32, vocab_size, (batch, PROMPT_TOKENS), generator=generator)

    def ours() -> list[list[int]]:
        return generate_batch(decoder, prompts.tolist(), num_tokens=num_tokens, sampling=GREEDY)

    def theirs() -> list[list[int]]:
        written = peer.generate(
            prompts, attention_mask=torch.ones_like(prompts), generation_config=greedy
        )
        return written[:, PROMPT_TOKENS:].tolist()

    ours(), theirs()  # the first calls allocate
    seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
    written = {}
    for _ in range(rounds):
        for name, write in (("theirs", theirs), ("ours", ours)):
            written[name], elapsed = timed(write)
            seconds[name].append(elapsed)
    speed = {name: batch * num_tokens / statistics.median(all_) for name, all_ in seconds.items()}
    same = sum(a == b for a, b in zip(written["ours"], written["theirs"], strict=True))
    ratio = speed["ours"] / speed["theirs"]
    return (
        f"| {batch} | {speed['theirs']:.0f} | {speed['ours']:.0f} | {ratio:.2f} "
        f"| {same} of {batch} texts |"
    )


def timed(work: Callable[[], Sequence[list[int]]]) -> tuple[Sequence[list[int]], float]:
    """Return what a function returns, and its seconds."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


if __name__ == "__main__":
    main()
