"""tasks.corpus.evalsets.items: both layouts of every set, in the harness's words; broken files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.core.errors import (
    ArtifactError,
    ConfigError,
    SourceError,
    SourceRecordError,
    SourceSchemaError,
)
from model.core.store import ArtifactStore
from model.data.items import by_task, items_digest, read_items, write_items
from tasks.config.evaluation import EvaluationConfig
from tasks.corpus.evalsets.items import read_items as read_sets
from tasks.corpus.evalsets.sets import EvaluationFile
from tasks.engine.stage import ResourceShare
from tasks.stages.scored_items import ScoredItemsOutputs, build, listed_items, scored_items

Rows = list[dict[str, Any]]
HUB_ROWS: dict[str, Rows] = {
    "blimp": [
        {
            "sentence_good": "Who should Derek hug after shocking Richard?",
            "sentence_bad": "Who should Derek hug Richard after shocking?",
            "linguistics_term": "island_effects",
            "UID": "adjunct_island",
        }
    ],
    "hellaswag": [
        {
            "activity_label": "Roof shingle removal",
            "ctx_a": "A man is sitting on a roof.",
            "ctx_b": "he",
            "ctx": "A man is sitting on a roof. he",
            "endings": ["sings [step] low.", "is ripping level tiles off.", "c", "d"],
            "label": "1",
        },
        {
            "activity_label": "Baking",
            "ctx_a": "How to bake [title] Heat the oven. [step] Wait",
            "ctx_b": "",
            "ctx": "unused",
            "endings": ["a", "b", "c", "d  e"],
            "label": "3",
        },
    ],
    "lambada": [{"text": "He did not care about the signs"}],
    "piqa": [{"goal": "How to cut?", "sol1": "With a knife.", "sol2": "With soup.", "label": 0}],
    "arc_easy": [
        {
            "question": "What melts?",
            "choices": {"text": ["ice", "sand", "air"], "label": ["A", "B", "C"]},
            "answerKey": "B",
        }
    ],
    "winogrande": [
        {
            "sentence": "Sarah was better than Maria so _ got the easier cases.",
            "option1": "Sarah",
            "option2": "Maria",
            "answer": "2",
        }
    ],
}
LOCAL_ROWS: dict[str, Rows] = {
    "blimp": [
        {
            "sentence_good": "Who should Derek hug after shocking Richard?",
            "sentence_bad": "Who should Derek hug Richard after shocking?",
            "linguistics_term": "island_effects",
            "paradigm": "adjunct_island",
        }
    ],
    "hellaswag": [{"ctx": "Baking: He waits.", "endings": ["a", "b", "c", "d"], "label": 3}],
    "lambada": [{"context": "He did not care about the", "target": "signs"}],
    "piqa": [
        {"query": "Question: How to cut?\n", "choices": ["With a knife.", "With soup."], "gold": 0}
    ],
    "arc_easy": [{"query": "Question: What melts?", "choices": ["ice", "sand", "air"], "gold": 1}],
    "winogrande": [
        {
            "context_options": [
                "Sarah was better than Maria so Sarah",
                "Sarah was better than Maria so Maria",
            ],
            "continuation": "got the easier cases.",
            "gold": 1,
        }
    ],
}
SAME_WORDS = ("blimp", "lambada", "piqa", "arc_easy", "winogrande")


def write_set(directory: Path, task: str, rows: Rows) -> EvaluationFile:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{task}.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return EvaluationFile(task, path)


def read(tmp_path: Path, task: str, rows: Rows, *, max_items: int | None = None):
    return read_sets([write_set(tmp_path, task, rows)], max_items=max_items)


@pytest.mark.parametrize("task", SAME_WORDS)
def test_both_layouts_ask_the_same(task: str, tmp_path: Path) -> None:
    hub = read(tmp_path / "hub", task, HUB_ROWS[task])
    local = read(tmp_path / "local", task, LOCAL_ROWS[task])
    assert hub == local


@pytest.mark.parametrize(
    ("task", "requests", "gold"),
    [
        ("lambada", [("He did not care about the", " signs")], 0),
        (
            "piqa",
            [
                ("Question: How to cut?\nAnswer:", " With a knife."),
                ("Question: How to cut?\nAnswer:", " With soup."),
            ],
            0,
        ),
        (
            "winogrande",
            [
                ("Sarah was better than Maria so Sarah", " got the easier cases."),
                ("Sarah was better than Maria so Maria", " got the easier cases."),
            ],
            1,
        ),
    ],
)
def test_requests_worked_example(task: str, requests: Any, gold: int, tmp_path: Path) -> None:
    (item,) = read(tmp_path, task, LOCAL_ROWS[task])
    assert (item.requests, item.gold) == (requests, gold)


def test_hellaswag_of_the_hub_is_cleaned_as_the_harness_does(tmp_path: Path) -> None:
    first, second = read(tmp_path, "hellaswag", HUB_ROWS["hellaswag"])
    assert first.contexts == ("Roof shingle removal: A man is sitting on a roof. He",)
    assert first.choices[0] == "sings low."
    assert second.contexts == ("Baking: How to bake. Heat the oven. Wait",)


def test_items_survive_the_round_trip(tmp_path: Path) -> None:
    files = [write_set(tmp_path, task, rows) for task, rows in HUB_ROWS.items()]
    items = read_sets(files, max_items=None)
    write_items(tmp_path / "items.parquet", items)
    assert read_items(tmp_path / "items.parquet") == items


def test_items_that_are_none_are_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "items.parquet")
    with pytest.raises(ArtifactError, match="items of an evaluation cannot be read"):
        read_items(tmp_path / "items.parquet")


def test_max_items_spread_over_the_set(tmp_path: Path) -> None:
    rows = [{"context": f"number {number} is", "target": str(number)} for number in range(10)]
    items = read(tmp_path, "lambada", rows, max_items=4)
    assert [item.number for item in items] == [0, 2, 5, 7]
    assert len(read(tmp_path, "lambada", rows, max_items=99)) == 10


def test_file_without_a_column_names_both_layouts(tmp_path: Path) -> None:
    with pytest.raises(SourceSchemaError, match="other columns than any layout") as caught:
        read(tmp_path, "piqa", [{"goal": "a", "sol1": "b"}])
    assert "goal, sol1, sol2, label or query, choices, gold" in str(caught.value)
    assert "found: goal, sol1" in str(caught.value)


@pytest.mark.parametrize(
    ("task", "change", "found"),
    [
        ("piqa", {"gold": 2}, "answer 2 of 2 is right"),
        ("piqa", {"gold": -1}, "answer -1 of 2 is right"),
        ("piqa", {"choices": ["With a knife.", ""]}, "an empty answer"),
        ("arc_easy", {"choices": []}, "answer 1 of 0 is right"),
        ("winogrande", {"continuation": None}, "an empty answer"),
    ],
)
def test_broken_item_names_its_row(
    task: str, change: dict[str, Any], found: str, tmp_path: Path
) -> None:
    whole = LOCAL_ROWS[task][0]
    with pytest.raises(SourceRecordError, match=f"item of evaluation set {task} is broken") as e:
        read(tmp_path, task, [whole, whole | change])
    assert found in str(e.value)
    assert f"{task}.parquet, row 1" in str(e.value)


def test_answer_key_that_is_no_label_is_an_error(tmp_path: Path) -> None:
    rows = [HUB_ROWS["arc_easy"][0] | {"answerKey": "E"}]
    with pytest.raises(SourceRecordError, match="evaluation set arc_easy is broken"):
        read(tmp_path, "arc_easy", rows)


def test_empty_set_is_an_error(tmp_path: Path) -> None:
    file = write_set(tmp_path, "lambada", LOCAL_ROWS["lambada"])
    pq.write_table(pq.read_table(file.path).slice(0, 0), file.path)
    with pytest.raises(SourceError, match="evaluation set lambada has no item"):
        read_sets([file], max_items=None)


def test_file_that_is_no_parquet_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "piqa.parquet").write_text("no parquet")
    with pytest.raises(SourceError, match="evaluation set piqa cannot be read"):
        read_sets([EvaluationFile("piqa", tmp_path / "piqa.parquet")], max_items=None)


def test_unknown_set_is_refused_before_anything_runs(tmp_path: Path) -> None:
    config = EvaluationConfig(sets={"blmp": str(tmp_path)})
    with pytest.raises(ConfigError, match="evaluation set is unknown") as caught:
        listed_items(config, store=ArtifactStore(tmp_path))
    assert "blimp" in str(caught.value)
    with pytest.raises(SourceError) as missing:
        listed_items(
            EvaluationConfig(sets={"blimp": str(tmp_path / "gone.parquet")}),
            store=ArtifactStore(tmp_path),
        )
    assert "set evaluation.sets.blimp to a parquet file" in str(missing.value)


def test_stage_makes_one_table_and_its_key_follows_the_content(tmp_path: Path) -> None:
    file = write_set(tmp_path / "sets", "lambada", LOCAL_ROWS["lambada"])
    store = ArtifactStore(tmp_path / "data")
    config = listed_items(EvaluationConfig(sets={"lambada": str(file.path)}), store=store)
    derivation = scored_items.derive("sets", config=config, inputs={})
    share = ResourceShare(threads=1, memory_bytes=10**8)
    manifest = store.build(derivation, lambda work: build(work, config, share))
    items = read_items(store.path(manifest.artifact) / "items.parquet")
    assert manifest.counts == {"num_lambada": 1}
    assert ScoredItemsOutputs.facts_of(manifest).digests == {"lambada": items_digest(items)}
    write_set(tmp_path / "sets", "lambada", LOCAL_ROWS["lambada"] * 2)
    changed = listed_items(EvaluationConfig(sets={"lambada": str(file.path)}), store=store)
    assert scored_items.derive("sets", config=changed, inputs={}).key != derivation.key


def test_real_sets_are_read_whole(shared_data: Path) -> None:
    names = {"blimp": 67_000, "piqa": 1_838, "winogrande": 1_267, "arc_easy": 2_376}
    files = [EvaluationFile(name, shared_data / f"eval/{name}.parquet") for name in names]
    items = by_task(read_sets(files, max_items=None))
    assert {task: len(own) for task, own in items.items()} == names
    assert len({item.subset for item in items["blimp"]}) == 67
