"""Items of well-known evaluation sets, from their own columns to one form.

Each set may come in the columns its publisher gives it on the hub, or in the plainer ones of
llm-foundry's local data (``query, choices, gold`` and the like). Wording follows the task
configurations of EleutherAI's lm-evaluation-harness 0.4.13; a test puts its own beside ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.core.errors import ConfigError, SourceError, SourceRecordError, SourceSchemaError
from model.data.items import Item
from tasks.corpus.evalsets.sets import EvaluationFile, read_table

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """Contexts and choices of one row, and the right one."""

    contexts: tuple[str, ...]
    choices: tuple[str, ...]
    gold: int
    category: str = ""
    subset: str = ""


@dataclass(frozen=True)
class Layout:
    """One choice of columns in which a set is published."""

    columns: tuple[str, ...]
    ask: Callable[[Row], Asked]


# --- one function for each layout ---------------------------------------------------------------


def _blimp(row: Row) -> Asked:
    pair = (row["sentence_good"], row["sentence_bad"])
    subset = row.get("paradigm") or row.get("UID") or ""
    return Asked(("",), pair, 0, category=row["linguistics_term"], subset=subset)


def _hellaswag_hub(row: Row) -> Asked:
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    endings = tuple(_without_brackets(ending) for ending in row["endings"])
    return Asked((_without_brackets(context),), endings, int(row["label"]))


def _without_brackets(text: str) -> str:
    """Source: the harness's ``hellaswag/utils.py``; brackets are artefacts of its WikiHow part."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub("\\[.*?\\]", "", text).replace("  ", " ")


def _hellaswag_local(row: Row) -> Asked:
    return Asked((row["ctx"],), tuple(row["endings"]), int(row["label"]))


def _lambada_hub(row: Row) -> Asked:
    *context, last = row["text"].split(" ")
    return Asked((" ".join(context),), (last,), 0)


def _lambada_local(row: Row) -> Asked:
    return Asked((row["context"],), (row["target"],), 0)


def _piqa_hub(row: Row) -> Asked:
    choices = (row["sol1"], row["sol2"])
    return Asked((_question(row["goal"]),), choices, int(row["label"]))


def _arc_hub(row: Row) -> Asked:
    choices = row["choices"]
    gold = choices["label"].index(row["answerKey"])
    return Asked((_question(row["question"]),), tuple(choices["text"]), gold)


def _asked_local(row: Row) -> Asked:
    """Read ``query``, which has the question with its prefix and may end in a line break."""
    query = row["query"].removesuffix("\n")
    return Asked((f"{query}\nAnswer:",), tuple(row["choices"]), int(row["gold"]))


def _question(text: str) -> str:
    return f"Question: {text}\nAnswer:"


def _winogrande_hub(row: Row) -> Asked:
    before, _, after = row["sentence"].partition("_")
    contexts = (before + row["option1"], before + row["option2"])
    return Asked(contexts, (after.strip(),), ("1", "2").index(row["answer"]))


def _winogrande_local(row: Row) -> Asked:
    return Asked(tuple(row["context_options"]), (row["continuation"],), int(row["gold"]))


LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "blimp": (Layout(("sentence_good", "sentence_bad", "linguistics_term"), _blimp),),
    "hellaswag": (
        Layout(("activity_label", "ctx_a", "ctx_b", "endings", "label"), _hellaswag_hub),
        Layout(("ctx", "endings", "label"), _hellaswag_local),
    ),
    "lambada": (
        Layout(("context", "target"), _lambada_local),
        Layout(("text",), _lambada_hub),
    ),
    "piqa": (
        Layout(("goal", "sol1", "sol2", "label"), _piqa_hub),
        Layout(("query", "choices", "gold"), _asked_local),
    ),
    "arc_easy": (
        Layout(("question", "choices", "answerKey"), _arc_hub),
        Layout(("query", "choices", "gold"), _asked_local),
    ),
    "winogrande": (
        Layout(("sentence", "option1", "option2", "answer"), _winogrande_hub),
        Layout(("context_options", "continuation", "gold"), _winogrande_local),
    ),
}


# --- reading ------------------------------------------------------------------------------------


def require_known(sets: Mapping[str, str]) -> None:
    """Refuse a set whose name is not one of ``LAYOUTS``."""
    unknown = sorted(sets.keys() - LAYOUTS.keys())
    if unknown:
        raise ConfigError(
            "an evaluation set is unknown",
            expected=f"any of {', '.join(LAYOUTS)}",
            found=unknown[0],
            where="evaluation.sets",
            fix="name it as it is listed, or add its layout to tasks/corpus/evalsets/items.py",
        )


def read_items(files: Sequence[EvaluationFile], *, max_items: int | None) -> list[Item]:
    """Return the items of evaluation sets, those of one set together, in row order.

    Args:
        max_items: of each set, spread evenly over its rows; unset = all.

    Raises:
        SourceSchemaError: a file has columns of no known layout.
        SourceRecordError: an item is broken; its row is named.
        SourceError: a file cannot be read, or a set has no item.
    """
    sets: dict[str, list[EvaluationFile]] = {}
    for file in files:
        sets.setdefault(file.evaluation_set, []).append(file)
    return [item for task in sets for item in _read_set(task, sets[task], max_items=max_items)]


def _read_set(task: str, files: Sequence[EvaluationFile], *, max_items: int | None) -> list[Item]:
    rows = [row for file in files for row in _rows(task, file)]
    if not rows:
        raise SourceError(
            f"evaluation set {task} has no item",
            expected="at least one row",
            found="0 rows",
            where=", ".join(str(file.path) for file in files),
            fix=f"correct evaluation.sets.{task}",
        )
    numbers = range(len(rows))
    if max_items is not None and max_items < len(rows):
        numbers = [index * len(rows) // max_items for index in range(max_items)]
    return [_item(task, number, *rows[number]) for number in numbers]


def _rows(task: str, file: EvaluationFile) -> Iterator[tuple[Layout, Row, str]]:
    """Yield each row of a file, with its layout and its place."""
    table = read_table(file, setting=f"evaluation.sets.{task}")
    names = set(table.schema.names)
    layout = next((item for item in LAYOUTS[task] if names.issuperset(item.columns)), None)
    if layout is None:
        raise SourceSchemaError(
            f"evaluation set {task} has other columns than any layout of it",
            expected=" or ".join(", ".join(item.columns) for item in LAYOUTS[task]),
            found=", ".join(table.schema.names),
            where=file.path,
            fix="rename the columns, or take the set from its publisher",
        )
    for number, row in enumerate(table.to_pylist()):
        yield layout, row, f"{file.path}, row {number}"


def _item(task: str, number: int, layout: Layout, row: Row, where: str) -> Item:
    try:
        asked = layout.ask(row)
    except (TypeError, ValueError, KeyError, AttributeError) as exc:
        raise _broken(task, found=exc, where=where) from exc
    num_answers = max(len(asked.contexts), len(asked.choices)) if asked.choices else 0
    if not 0 <= asked.gold < num_answers:
        raise _broken(task, found=f"answer {asked.gold} of {num_answers} is right", where=where)
    texts = (*asked.choices, *(asked.contexts if len(asked.contexts) > 1 else ()))
    if not all(isinstance(text, str) and text for text in texts):
        raise _broken(task, found=f"an empty answer among {list(texts)}", where=where)
    return Item(
        task=task,
        category=asked.category,
        subset=asked.subset,
        number=number,
        contexts=asked.contexts,
        choices=asked.choices,
        gold=asked.gold,
    )


def _broken(task: str, *, found: object, where: str) -> SourceRecordError:
    return SourceRecordError(
        f"an item of evaluation set {task} is broken",
        expected="answers that are texts, and one of them named as the right one, counted from 0 "
        "(or as the set's publisher names it)",
        found=found,
        where=where,
        fix="correct the row, or leave it out of the file",
    )
