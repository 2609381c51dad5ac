"""EleutherAI's harness and our scorer: the same items, the same words, the same numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from model.config.child_runs import HarnessRun
from model.config.export import ExportConfig
from model.core.artifact import Derivation
from model.core.errors import ConfigError
from model.core.store import ArtifactStore
from model.data.items import Item, write_items
from model.eval.harness import differences, fitting_items, item_columns, run_harness
from model.eval.multiple_choice import score_items, summarise, write_item_scores
from model.export.hf_writer import export
from model.network.weights import load_model, save_model
from model.text.tokenizer import Tokenizer
from tasks.corpus.evalsets.items import read_items
from tasks.corpus.evalsets.set_texts import EvaluationFile
from tasks.stages.harness_scores import ENVIRONMENT
from tests.support.small_model import random_model
from tests.support.small_tokenizer import VOCAB_SIZE, train_small_tokenizer
from tests.tasks.corpus.evalsets.test_items import HUB_ROWS, LOCAL_ROWS, write_set

needs_harness = pytest.mark.skipif(
    find_spec("lm_eval") is None, reason="needs lm-eval, which requirements.lock holds"
)
# What the harness names the task.
THEIRS = {
    "blimp": "blimp_adjunct_island",
    "hellaswag": "hellaswag",
    "lambada": "lambada_openai",
    "piqa": "piqa",
    "arc_easy": "arc_easy",
    "winogrande": "winogrande",
}
SAME_NUMBERS_NATS = 1e-3


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    train_small_tokenizer(root / "tokenizer")
    model = random_model(vocab_size=VOCAB_SIZE, tied=False, context_tokens=1024)
    save_model(model, root / "weights")
    export(model, root / "tokenizer", destination=root / "model", config=ExportConfig(gguf="none"))
    return root / "model"


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    files = [write_set(tmp_path / "sets", task, rows) for task, rows in LOCAL_ROWS.items()]
    return read_items(files, max_items=None)


def test_harness_that_is_not_installed_says_how_to_get_it(monkeypatch, exported) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match="lm-evaluation-harness is not installed") as caught:
        run_harness(exported, [], batch_rows=1)
    assert "requirements.lock" in str(caught.value)


def test_differences_are_of_items_that_both_have() -> None:
    columns = {"task": ["piqa"], "number": [1], "is_greedy": [[True, False]]}
    ours = pa.table(columns | {"log_likelihoods": [[-1.0, -2.0]]})
    theirs = pa.table(columns | {"log_likelihoods": [[-1.5, -2.25]], "is_greedy": [[True, True]]})
    assert differences(ours, theirs) == {
        "num_compared": 1,
        "max_nats_apart": 0.5,
        "num_greedy_apart": 1,
    }
    assert differences(ours, theirs.slice(1))["num_compared"] == 0


def test_items_that_the_harness_would_stop_at_are_left_out(exported: Path, items) -> None:
    long = Item("piqa", "", "", 1, ("Q",), ("a", "cat " * 1_100), 0)
    assert fitting_items([*items, long], exported) == items


@needs_harness
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", THEIRS)
def test_words_are_those_of_the_harness_own_configuration(task: str, tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    file = write_set(tmp_path, task, HUB_ROWS[task])
    paths = dict.fromkeys(("train", "validation", "test"), str(file.path))
    files = {"data_files": paths, "cache_dir": str(tmp_path / "cache")}
    config = {
        "include": str(TaskManager().task_index[THEIRS[task]].yaml_path),
        "task": "theirs",
        "dataset_path": "parquet",
        "dataset_name": None,
        "training_split": None,
        "dataset_kwargs": files,
    }
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(config))
    theirs = TaskManager().load(str(tmp_path / "theirs.yaml"))["tasks"]["theirs"]
    theirs.build_all_requests(rank=0, world_size=1)
    ours = read_items([file], max_items=None)
    for number, item in enumerate(ours):
        asked = [request for request in theirs.instances if request.doc_id == number]
        assert [request.args for request in asked] == item.requests
        doc = asked[0].doc
        right = theirs.doc_to_text(doc) if theirs.multiple_input else theirs.doc_to_target(doc)
        assert right in (item.gold, str(item.gold), f" {item.choices[0]}")


@needs_harness
@pytest.mark.slow
def test_harness_and_we_agree_on_every_item(
    exported: Path, items: list[Item], tmp_path: Path
) -> None:
    write_items(tmp_path / "items.parquet", items)
    model = load_model(exported.parent / "weights")
    scores = score_items(model, Tokenizer.load(exported.parent / "tokenizer"), items)
    write_item_scores(tmp_path / "item_scores.parquet", scores)
    run = HarnessRun(
        data_root=str(tmp_path / "data"),
        derivation=Derivation(stage="harness_scores", name="base", version=1),
        model=str(exported),
        tokenizer=str(exported),
        items=str(tmp_path),
        scores=str(tmp_path),
    )
    (tmp_path / "config.json").write_text(run.model_dump_json())
    command = [
        sys.executable,
        "-m",
        "model.eval.harness",
        "--config",
        str(tmp_path / "config.json"),
    ]
    done = subprocess.run(
        command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    facts = ArtifactStore(tmp_path / "data").verify(run.derivation.artifact).facts
    assert facts["num_compared"] == len(items)
    assert facts["max_nats_apart"] < SAME_NUMBERS_NATS
    assert facts["num_greedy_apart"] == 0
    for score in summarise(scores):
        assert facts[f"{score.task}_acc"] == score.acc
        if score.acc_norm is not None:
            assert facts[f"{score.task}_acc_norm"] == score.acc_norm
        if score.perplexity is not None:
            theirs = facts[f"{score.task}_perplexity"]
            assert theirs == pytest.approx(score.perplexity, rel=SAME_NUMBERS_NATS)


@needs_harness
@pytest.mark.slow
def test_harness_and_we_agree_on_real_items(exported: Path, shared_data: Path, tmp_path: Path):
    names = {
        "blimp": "blimp",
        "hellaswag": "hellaswag_validation",
        "lambada": "lambada_openai",
        "piqa": "piqa",
        "arc_easy": "arc_easy",
        "winogrande": "winogrande",
    }
    files = [EvaluationFile(task, shared_data / f"eval/{n}.parquet") for task, n in names.items()]
    items = read_items(files, max_items=20)
    model = load_model(exported.parent / "weights")
    scores = score_items(model, Tokenizer.load(exported.parent / "tokenizer"), items)
    write_item_scores(tmp_path / "ours.parquet", scores)
    found = run_harness(exported, items, batch_rows=4)
    apart = differences(
        pq.read_table(tmp_path / "ours.parquet"), pa.table(item_columns(found["samples"]))
    )
    assert apart["num_compared"] == 120
    assert apart["max_nats_apart"] < SAME_NUMBERS_NATS
    assert apart["num_greedy_apart"] == 0
