"""Scores on items of evaluation sets: per item, per subset, per task.

``acc``, ``acc_norm`` and ``perplexity`` are defined as in EleutherAI's lm-evaluation-harness 0.4.13
(``ConfigurableTask.process_results``): accuracy of the most likely answer; accuracy of the answer
with the highest log-likelihood per character; exp of the mean negative log-likelihood of the only
answer. A task with subsets scores the mean of its subsets (the harness's group ``blimp``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from model.core.config import Config
from model.data.items import Item, by_task, items_digest
from model.eval.loglikelihood import Loglikelihood, encode_requests, loglikelihoods
from model.network.gpt import GPT
from model.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

NORMED_TASKS = ("hellaswag", "piqa", "arc_easy")  # for which the harness has acc_norm


@dataclass(frozen=True)
class ItemScore:
    """One item and the log-likelihood of each of its answers."""

    item: Item
    answers: tuple[Loglikelihood, ...]

    @property
    def is_correct(self) -> bool:
        """Whether the most likely answer is right; of a single answer, whether it is greedy."""
        if len(self.answers) == 1:
            return self.answers[0].is_greedy
        return self._argmax(lambda index: self.answers[index].nats) == self.item.gold

    @property
    def is_correct_normed(self) -> bool:
        """Whether the answer with the highest log-likelihood per character is right."""
        return self._argmax(self._nats_per_char) == self.item.gold

    def _argmax(self, key: Callable[[int], float]) -> int:
        return max(range(len(self.answers)), key=key)

    def _nats_per_char(self, index: int) -> float:
        return self.answers[index].nats / len(self.item.choices[index])


class TaskScore(Config):
    """Scores on one evaluation set."""

    task: str
    num_items: int
    items_digest: str = Field(description="sha256 of the items: equal ones compare")
    acc: float
    acc_stderr: float = Field(description="standard error of acc over the items")
    acc_norm: float | None = None
    perplexity: float | None = None
    categories: dict[str, float] = Field(default_factory=dict, description="acc of each category")
    subsets: dict[str, float] = Field(default_factory=dict, description="acc of each subset")

    def facts(self) -> dict[str, float | str]:
        """Return the scores by their names in manifests, MLflow and model cards."""
        named = {"acc": self.acc, "acc_norm": self.acc_norm, "perplexity": self.perplexity}
        named |= {f"{category}_acc": acc for category, acc in self.categories.items()}
        return {f"{self.task}_{name}": value for name, value in named.items() if value is not None}


def score_items(model: GPT, tokenizer: Tokenizer, items: Sequence[Item]) -> list[ItemScore]:
    """Return the scores of items, in their order."""
    scores: list[ItemScore] = []
    for task, own in by_task(items).items():
        requests = [item.requests for item in own]
        pairs = [pair for answers in requests for pair in answers]
        found = iter(loglikelihoods(model, encode_requests(tokenizer, pairs)))
        for item, answers in zip(own, requests, strict=True):
            scores.append(ItemScore(item, tuple(next(found) for _ in answers)))
        logger.info("%s: %d items, %d texts", task, len(own), len(pairs))
    return scores


def summarise(scores: Iterable[ItemScore]) -> tuple[TaskScore, ...]:
    """Return the scores of each task, in order of first appearance."""
    tasks: dict[str, list[ItemScore]] = {}
    for score in scores:
        tasks.setdefault(score.item.task, []).append(score)
    return tuple(_task_score(task, own) for task, own in tasks.items())


def _task_score(task: str, scores: Sequence[ItemScore]) -> TaskScore:
    subsets = _means(scores, lambda item: item.subset)
    categories = _means(scores, lambda item: item.category)
    acc = fmean(score.is_correct for score in scores)
    is_whole = set(subsets) == {""}
    is_single = all(len(score.answers) == 1 for score in scores)
    return TaskScore(
        task=task,
        num_items=len(scores),
        items_digest=items_digest([score.item for score in scores]),
        acc=acc if is_whole else fmean(subsets.values()),
        acc_stderr=math.sqrt(acc * (1 - acc) / max(1, len(scores) - 1)),
        acc_norm=fmean(s.is_correct_normed for s in scores) if task in NORMED_TASKS else None,
        perplexity=math.exp(-fmean(s.answers[0].nats for s in scores)) if is_single else None,
        categories={} if set(categories) == {""} else categories,
        subsets={} if is_whole else subsets,
    )


def _means(scores: Sequence[ItemScore], group_of: Callable[[Item], str]) -> dict[str, float]:
    groups: dict[str, list[bool]] = {}
    for score in scores:
        groups.setdefault(group_of(score.item), []).append(score.is_correct)
    return {name: fmean(groups[name]) for name in sorted(groups)}


def write_item_scores(path: Path, scores: Sequence[ItemScore]) -> None:
    """Write one row per item: identity, log-likelihood of each answer, correctness."""
    columns = {
        "task": [score.item.task for score in scores],
        "subset": [score.item.subset for score in scores],
        "number": [score.item.number for score in scores],
        "log_likelihoods": [[answer.nats for answer in score.answers] for score in scores],
        "is_greedy": [[answer.is_greedy for answer in score.answers] for score in scores],
        "is_correct": [score.is_correct for score in scores],
    }
    pq.write_table(pa.table(columns), path)
