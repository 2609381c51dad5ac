"""Parity with EleutherAI's lm-evaluation-harness: the same requests, the same scores per item."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from model.config.trained_model import ExportConfig
from model.data.items import Item
from model.eval.multiple_choice import ItemScore, score_items, summarise
from model.export.hf_writer import export
from model.network.weights import load_model, save_model
from model.text.tokenizer import Tokenizer
from tasks.corpus.evalsets.items import read_items
from tasks.corpus.evalsets.sets import EvaluationFile
from tests.support.lm_eval_peer import PeerScores, lm_eval_scores
from tests.support.small_model import random_model
from tests.support.small_tokenizer import VOCAB_SIZE, train_small_tokenizer
from tests.tasks.corpus.evalsets.test_items import HUB_ROWS, LOCAL_ROWS, write_set

needs_lm_eval = pytest.mark.skipif(
    find_spec("lm_eval") is None, reason="needs lm-eval, which requirements.lock holds"
)
THEIRS = {  # our task -> the harness's
    "blimp": "blimp_adjunct_island",
    "hellaswag": "hellaswag",
    "lambada": "lambada_openai",
    "piqa": "piqa",
    "arc_easy": "arc_easy",
    "winogrande": "winogrande",
}
REAL_FILES = THEIRS | {"blimp": "blimp", "hellaswag": "hellaswag_validation"}
SAME_NUMBERS_NATS = 1e-3


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    train_small_tokenizer(root / "tokenizer")
    model = random_model(vocab_size=VOCAB_SIZE, tied=False, context_tokens=1024)
    save_model(model, root / "weights")
    export(model, root / "tokenizer", destination=root / "model", config=ExportConfig(gguf="none"))
    return root / "model"


def our_scores(exported: Path, items: Sequence[Item]) -> list[ItemScore]:
    model = load_model(exported.parent / "weights")
    return score_items(model, Tokenizer.load(exported.parent / "tokenizer"), items)


def assert_same_answers(ours: Sequence[ItemScore], theirs: PeerScores) -> None:
    assert len(theirs.log_likelihoods) == len(ours)
    for score in ours:
        key = score.item.task, score.item.number
        nats = [answer.nats for answer in score.answers]
        assert theirs.log_likelihoods[key] == pytest.approx(nats, rel=0, abs=SAME_NUMBERS_NATS)
        assert theirs.is_greedy[key] == [answer.is_greedy for answer in score.answers]


@needs_lm_eval
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", THEIRS)
def test_requests_equal_those_of_the_harness_own_configuration(task: str, tmp_path: Path) -> None:
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
        requests = [request for request in theirs.instances if request.doc_id == number]
        assert [request.args for request in requests] == item.requests
        doc = requests[0].doc
        right = theirs.doc_to_text(doc) if theirs.multiple_input else theirs.doc_to_target(doc)
        assert right in (item.gold, str(item.gold), f" {item.choices[0]}")


@needs_lm_eval
@pytest.mark.slow
def test_every_set_scores_as_the_harness_scores_it(exported: Path, tmp_path: Path) -> None:
    files = [write_set(tmp_path / "sets", task, rows) for task, rows in LOCAL_ROWS.items()]
    items = read_items(files, max_items=None)
    ours = our_scores(exported, items)
    theirs = lm_eval_scores(exported, items, scratch=tmp_path)
    assert_same_answers(ours, theirs)
    for score in summarise(ours):
        found = theirs.metrics[score.task]
        assert found["acc"] == score.acc
        if score.acc_norm is not None:
            assert found["acc_norm"] == score.acc_norm
        if score.perplexity is not None:
            assert found["perplexity"] == pytest.approx(score.perplexity, rel=SAME_NUMBERS_NATS)


@needs_lm_eval
@pytest.mark.slow
def test_real_items_score_as_the_harness_scores_them(
    exported: Path, shared_data: Path, tmp_path: Path
) -> None:
    files = [
        EvaluationFile(task, shared_data / f"eval/{name}.parquet")
        for task, name in REAL_FILES.items()
    ]
    items = read_items(files, max_items=20)
    assert len(items) == 120
    assert_same_answers(
        our_scores(exported, items), lm_eval_scores(exported, items, scratch=tmp_path)
    )
