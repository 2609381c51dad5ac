"""Preference training: the same loop, whole or in parts, on one process or two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.config.runs import TrainRun
from model.config.train import MixturePart
from model.core.errors import ArtifactError, ConfigError
from model.core.store import ArtifactStore
from model.data.shards import ShardSet
from model.network.weights import load_model
from model.runtime.distributed import DistributedContext
from model.text.tokenizer import Tokenizer
from model.train.accumulation import Accumulator
from model.train.events import read_events
from model.train.objectives import PreferenceLoss
from model.train.setup import build_reader
from tests.support.launched_training import artifact_path, weights
from tests.support.small_pairs import BETA, make_pairs_root, pairs_run, write_small_pairs
from tests.support.small_training import (
    CONTEXT_TOKENS,
    lines_until,
    start_child,
    trainer_of,
    write_config,
)

pytestmark = pytest.mark.usefixtures("one_thread")

VALIDATION_KEYS = (
    "validation/loss",
    "validation/preference_accuracy",
    "validation/preference_margin",
    "validation/chosen_likelier_frac",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pairs_root(tmp_path_factory.mktemp("data"))


def metrics(path: Path, kind: str) -> dict[int, dict[str, float]]:
    return {
        event["step"]: {key: value for key, value in event.items() if "/" in key}
        for event in read_events(path / "events.jsonl")
        if event["kind"] == kind
    }


def train_child(run: TrainRun, directory: Path, *, num_processes: int = 1) -> None:
    child = start_child(write_config(run, directory), num_processes=num_processes)
    output, _ = child.communicate()
    assert child.returncode == 0, output


def test_fit_learns_which_answer_is_better_and_says_how_well(root: Path, tmp_path: Path):
    run = pairs_run(root, train={"steps": 20})
    summary = trainer_of(run, tmp_path).fit()
    training, validation = metrics(tmp_path, "train"), metrics(tmp_path, "validation")
    assert training[1]["train/loss"] == pytest.approx(np.log(2), rel=1e-3)
    assert training[20]["train/loss"] < 0.5
    assert training[20]["train/preference_accuracy"] == 1.0
    assert training[20]["train/preference_margin"] > 0.5
    assert tuple(validation[20]) == VALIDATION_KEYS
    assert validation[20]["validation/preference_accuracy"] == 1.0
    assert validation[20]["validation/loss"] < validation[5]["validation/loss"] < np.log(2)
    assert summary.facts.validation_loss == validation[20]["validation/loss"]
    assert "validation_bits_per_byte" not in summary.facts.plain()
    assert summary.counts.steps == 20


def test_validation_of_pairs_equals_a_plain_count(root: Path, tmp_path: Path):
    run = pairs_run(root, train={"steps": 5})
    trainer_of(run, tmp_path).fit()
    shards = ShardSet(root / "held-out-pairs", context_tokens=CONTEXT_TOKENS, loss_on="mask")
    block = shards.rows(range(20))
    ids, mask = torch.from_numpy(block.ids.astype(np.int64)), torch.from_numpy(block.mask)
    rewards = []
    for directory in (tmp_path / "model", root / "base"):
        each = load_model(directory).double()(ids[:, :-1]).log_softmax(-1)
        picked = each.gather(2, ids[:, 1:, None]).squeeze(2) * mask[:, 1:]
        rewards.append(picked.sum(1).view(10, 2))
    tuned, base = rewards
    margins = BETA * ((tuned - base)[:, 0] - (tuned - base)[:, 1])
    found = metrics(tmp_path, "validation")[5]
    assert list(found.values()) == pytest.approx(
        [
            -F.logsigmoid(margins).mean().item(),
            (margins > 0).double().mean().item(),
            margins.mean().item(),
            (tuned[:, 0] > tuned[:, 1]).double().mean().item(),
        ],
        rel=1e-4,
    )


def test_gradient_does_not_depend_on_the_micro_batch(root: Path):
    run = pairs_run(root, train={"steps": 1, "batch_tokens_per_step": 12 * CONTEXT_TOKENS})
    tokenizer = Tokenizer.load(root / "tokenizer")
    reader = build_reader(run, tokenizer, DistributedContext())
    batch = reader.read(reader.start())
    found = []
    for rows in (12, 5, 1):  # whole pairs: 12, 4 and 2
        network = load_model(root / "base")
        with torch.no_grad():
            network.head_weight.mul_(1.1)  # no longer the reference: weights of pairs differ
        loss = PreferenceLoss(network, load_model(root / "base"), beta=BETA)
        accumulator = Accumulator(
            loss, distributed=DistributedContext(), dtype=torch.float32, rows=rows, rows_per_group=2
        )
        means = accumulator.backward(batch, num_terms=6)
        gradients = [item.grad for item in network.parameters()]
        found.append((accumulator.rows, means, gradients))
    assert [rows for rows, _, _ in found] == [12, 4, 2]
    for _, means, gradients in found[1:]:
        torch.testing.assert_close(means, found[0][1])
        torch.testing.assert_close(gradients, found[0][2], rtol=1e-4, atol=1e-7)


def test_training_in_two_processes_gives_the_numbers_of_one(root: Path, tmp_path: Path):
    train = {"steps": 5, "micro_batch_rows": 2, "batch_tokens_per_step": 8 * CONTEXT_TOKENS}
    alone, both = (pairs_run(root, name=name, train=train) for name in ("alone", "both"))
    train_child(alone, tmp_path / "alone")
    train_child(both, tmp_path / "both", num_processes=2)
    for kind, num in (("train", 5), ("validation", 1)):
        found, wanted = (metrics(artifact_path(run), kind) for run in (both, alone))
        assert len(found) == num
        for step, values in wanted.items():
            for key, value in values.items():
                if not key.startswith("perf/"):
                    assert found[step][key] == pytest.approx(value, rel=1e-3, abs=1e-6), key
    manifests = [ArtifactStore(root).verify(run.derivation.artifact) for run in (alone, both)]
    assert manifests[0].counts == manifests[1].counts


def test_training_killed_and_run_again_equals_training_at_once(root: Path, tmp_path: Path):
    whole, parts = (pairs_run(root, name=name, train={"steps": 24}) for name in ("whole", "killed"))
    train_child(whole, tmp_path / "whole")
    child = start_child(write_config(parts, tmp_path / "killed"))
    assert any(": checkpoint: " in line for line in lines_until(child, ": checkpoint: "))
    child.kill()
    child.communicate()
    train_child(parts, tmp_path / "killed")
    kinds = [event["kind"] for event in read_events(artifact_path(parts) / "events.jsonl")]
    assert "resume" in kinds
    assert weights(parts) == weights(whole)
    for key in ("train/loss", "train/preference_margin", "train/gradient_norm"):
        assert [item[key] for item in metrics(artifact_path(parts), "train").values()] == [
            item[key] for item in metrics(artifact_path(whole), "train").values()
        ]


def test_training_from_scratch_is_refused(root: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="needs a model to start from") as error:
        trainer_of(pairs_run(root, train={"steps": 1}, init_from=None), tmp_path)
    assert "found: none: training from scratch" in str(error.value)
    assert "fine-tune a model on chats first" in str(error.value)


def test_training_on_shards_without_a_loss_mask_is_refused(root: Path, tmp_path: Path):
    mixture = (MixturePart(shards="training"),)
    trainer = trainer_of(pairs_run(root, train={"steps": 1}, mixture=mixture), tmp_path)
    with pytest.raises(ConfigError, match="the shards have no loss mask"):
        trainer.fit()


def test_held_out_rows_that_are_no_pairs_are_refused(root: Path, tmp_path: Path):
    tokenizer = Tokenizer.load(root / "tokenizer")
    write_small_pairs(tmp_path / "odd", tokenizer, num_rows=7)
    run = pairs_run(root, train={"steps": 1}, validation=str(tmp_path / "odd"))
    with pytest.raises(ArtifactError, match="row group of the shards is incomplete"):
        trainer_of(run, tmp_path / "out")


def test_batch_that_splits_a_pair_over_processes_is_refused_by_name(root: Path):
    run = pairs_run(root, train={"steps": 1, "batch_tokens_per_step": 6 * CONTEXT_TOKENS})
    distributed = DistributedContext(rank=0, size=2)
    with pytest.raises(ConfigError, match="spread evenly over the processes") as error:
        build_reader(run, Tokenizer.load(root / "tokenizer"), distributed)
    assert "train.processes * train.nodes * 2" in str(error.value)
