"""Scores of an exported model: evaluation sets, a real parser, the demo's grammar and questions.

    python -m benchmarks.bench_grammar <exported folder> [--sets <folder>] [--documents <parquet>]
        [--texts 100] [--questions 500] [--style text|chat] [--max-items N] [--threads N]
        [--temperature 0.8] [--top-k 50]

``--sets`` holds blimp.parquet, hellaswag*.parquet, lambada*.parquet, piqa.parquet, arc_easy.parquet
and winogrande.parquet, or some of them. Without ``--documents`` a model of style text writes no
texts of its own; with them, the parser also judges their own first sentences, for comparison.
``--questions`` are the demo's. The tables are Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import pyarrow.parquet as pq
import torch

from benchmarks.machine import describe
from model.config.trained_model import ScoreConfig
from model.data.prompts import Generation, Prompt
from model.eval.generations import generate_texts
from model.eval.multiple_choice import TaskScore, score_items, summarise
from model.export.hf_reader import load_pretrained
from tasks.config.evaluation import EvaluationConfig
from tasks.corpus.evalsets.items import LAYOUTS, read_items
from tasks.corpus.evalsets.link_grammar import accepted, parser_version
from tasks.corpus.evalsets.prompts import chat_openings, demo_questions, document_openings
from tasks.corpus.evalsets.sets import EvaluationFile
from tasks.corpus.evalsets.text_quality import score_texts, written_sentences

Made = TypeVar("Made")
HUMAN_SENTENCES = 5  # of each document


def main() -> None:
    """Score one model and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", type=Path)
    parser.add_argument("--documents", type=Path)
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--questions", type=int, default=0)
    parser.add_argument("--style", choices=("text", "chat"), default="text")
    parser.add_argument("--max-items", type=int)
    parser.add_argument("--temperature", type=float, default=ScoreConfig().temperature)
    parser.add_argument("--top-k", type=int, default=ScoreConfig().top_k)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(describe(), f"\n\n{options.threads} threads, parser: {parser_version() or 'none'}\n")
    if options.sets:
        print_sets(options.folder, options.sets, max_items=options.max_items)
    prompts = wanted_prompts(options)
    if prompts:
        config = ScoreConfig(temperature=options.temperature, top_k=options.top_k)
        print_texts(options.folder, prompts, config=config, is_demo=options.questions > 0)
    if options.documents and parser_version():
        share = human_share(options.documents, num=options.texts)
        print(f"| parser_accepted, of the documents themselves | {share:.4g} |")


def print_sets(folder: Path, sets: Path, *, max_items: int | None) -> None:
    """Print a row for each evaluation set of a folder."""
    loaded = load_pretrained(folder)
    print("| set | items | acc | standard error | acc_norm | perplexity | seconds | of CPU |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for task in LAYOUTS:
        files = [EvaluationFile(task, path) for path in sorted(sets.glob(f"{task}*.parquet"))]
        if not files:
            continue
        items = read_items(files, max_items=max_items)
        (score,), wall, cpu = timed(
            lambda items=items: summarise(score_items(loaded.model, loaded.tokenizer, items))
        )
        print(f"{row_of(score)} {wall:.0f} | {cpu:.0f} |", flush=True)
        for category, acc in score.categories.items():
            print(f"| {task}: {category} | | {acc:.3f} | | | | | |")


def row_of(score: TaskScore) -> str:
    """Return the scores of a set as the beginning of a table's row."""
    norm = "" if score.acc_norm is None else f"{score.acc_norm:.4f}"
    perplexity = "" if score.perplexity is None else f"{score.perplexity:,.1f}"
    return (
        f"| {score.task} | {score.num_items:,} | {score.acc:.4f} | {score.acc_stderr:.4f} "
        f"| {norm} | {perplexity} |"
    )


def wanted_prompts(options: argparse.Namespace) -> list[Prompt]:
    """Return what the model is asked to write."""
    config = EvaluationConfig()
    prompts: list[Prompt] = []
    if options.style == "chat":
        prompts += chat_openings(config.chat_prompts, num=options.texts)
    elif options.documents:
        prompts += document_openings(
            options.documents, num=options.texts, num_words=config.opening_words
        )
    return [*prompts, *demo_questions(options.questions, seed=config.seed, style=options.style)]


def print_texts(folder: Path, prompts: list[Prompt], *, config: ScoreConfig, is_demo: bool) -> None:
    """Print what texts are worth, one measure a row."""
    loaded = load_pretrained(folder)
    written, wall, cpu = timed(
        lambda: generate_texts(loaded.model, loaded.tokenizer, prompts, config=config)
    )
    judged = score_texts(written, has_parser=parser_version() is not None, is_demo=is_demo)
    print(f"\n{len(written)} texts in {wall:.0f} s ({cpu:.0f} s of CPU)\n")
    print("| measure | value |\n|---|--:|")
    for name, value in {**judged.metrics, **judged.counts}.items():
        print(f"| {name} | {value:.4g} |")


def human_share(documents: Path, *, num: int) -> float:
    """Return the parser's share of the first sentences of documents, for comparison."""
    texts = pq.read_table(documents, columns=["text"])["text"].to_pylist()
    sentences = []
    for index in range(min(num, len(texts))):
        whole = Generation(
            kind="opening",
            style="chat",
            prompt="",
            text=texts[index * len(texts) // min(num, len(texts))],
            expected=None,
            num_tokens=0,
            finish="length",
        )
        sentences += written_sentences(whole)[:HUMAN_SENTENCES]
    return fmean(accepted(sentences))


def timed(work: Callable[[], Made]) -> tuple[Made, float, float]:
    """Return what work makes, and the seconds and CPU seconds it took."""
    started, cpu = time.perf_counter(), time.process_time()
    made = work()
    return made, time.perf_counter() - started, time.process_time() - cpu


if __name__ == "__main__":
    main()
