"""Training loop: steps, records, checkpoints, validation, and resume after a stop."""

from __future__ import annotations

import dataclasses
import logging
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from model.config.network import ModelConfig
from model.config.outputs import TrainModelCounts
from model.config.runs import TrainRun
from model.config.train import MixturePart, TrackingConfig
from model.core.errors import ConfigError, DiskSpaceError, TrainingError
from model.data.shards import ShardSet
from model.network.gpt import GPT
from model.network.weights import load_model
from model.optim.schedule import learning_rate_factor
from model.runtime.distributed import DistributedContext, StopRequest
from model.text.tokenizer import Tokenizer
from model.train.events import read_events
from model.train.trainer import Trainer, TrainingInterruptedError
from tests.support.small_disk import small_disk
from tests.support.small_tokenizer import SENTENCES
from tests.support.small_training import (
    CONTEXT_TOKENS,
    make_data_root,
    saved_weights,
    small_run,
    trainer_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_root(tmp_path_factory.mktemp("data"))


def values(directory: Path, key: str) -> dict[int, float]:
    events = read_events(directory / "events.jsonl")
    return {event["step"]: event[key] for event in events if event["kind"] == "train"}


def losses(directory: Path) -> dict[int, float]:
    return values(directory, "train/loss")


def reference(run: TrainRun) -> list[tuple[float, float]]:
    """Return losses and gradient norms of the same training in plain PyTorch, batches whole."""
    tokenizer = Tokenizer.load(run.path(run.tokenizer))
    model = GPT(run.model.architecture(tokenizer.vocab_size))
    model.init_weights(run.train.seed)
    tables = [model.model.embed_tokens.weight]
    norms = [item for item in model.parameters() if item.ndim == 1]
    kept = {id(item) for item in tables + norms}
    rate, decay = run.train.learning_rate or 0.0, run.train.weight_decay or 0.0
    optimizer = torch.optim.AdamW(
        [
            {"params": [item for item in model.parameters() if id(item) not in kept]},
            {"params": tables + norms, "weight_decay": 0.0},
        ],
        betas=(run.train.beta1 or 0.0, run.train.beta2 or 0.0),
        eps=run.train.epsilon,
        weight_decay=decay,
    )
    shards = ShardSet(run.path("training"), context_tokens=CONTEXT_TOKENS)
    order = np.argsort(np.random.Philox(key=run.train.seed << 64).random_raw(shards.num_rows))
    found = []
    for step in range(run.train.steps or 0):
        ids = torch.from_numpy(shards.rows(order[4 * step : 4 * step + 4]).ids.astype(np.int64))
        logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), run.train.gradient_clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate * learning_rate_factor(step, run.train)
        optimizer.step()
        optimizer.zero_grad()
        found.append((loss.item(), norm.item()))
    return found


def test_fit_computes_what_plain_pytorch_computes(root: Path, tmp_path: Path):
    run = small_run(root, train={"steps": 6, "micro_batch_rows": 3, "optimizer": "adamw"})
    trainer_of(run, tmp_path).fit()
    norms = values(tmp_path, "train/gradient_norm")
    found = [(loss, norms[step]) for step, loss in losses(tmp_path).items()]
    expected = reference(run)
    assert [pair[0] for pair in found] == pytest.approx([pair[0] for pair in expected], rel=1e-5)
    assert [pair[1] for pair in found] == pytest.approx([pair[1] for pair in expected], rel=1e-4)
    assert found[-1][0] < found[0][0]


def test_fit_leaves_a_model_events_and_counts(root: Path, tmp_path: Path):
    run = small_run(root, train={"steps": 7}, sample_prompts=("The cat",))
    summary = trainer_of(run, tmp_path).fit()
    kinds = [(event["kind"], event["step"]) for event in read_events(tmp_path / "events.jsonl")]
    # A checkpoint is written while training continues, so its event comes later, except the last.
    in_between = {("checkpoint", 3), ("checkpoint", 4)}
    assert in_between < set(kinds)
    assert [item for item in kinds if item[0] != "train" and item not in in_between] == [
        ("start", 0),
        ("validation", 5),
        ("sample", 5),
        ("checkpoint", 7),  # before the validation of the same step
        ("validation", 7),
        ("sample", 7),
        ("end", 7),
    ]
    assert summary.counts == TrainModelCounts(steps=7, tokens=7 * 64, targets=7 * 64)
    assert [item.step for item in summary.facts.checkpoints] == [3, 4, 7]
    assert [item.is_trunk for item in summary.facts.checkpoints] == [True, False, False]
    last = summary.facts.checkpoints[2]
    assert last.metrics["validation/loss"] == summary.facts.validation_loss
    assert last.is_best
    assert (tmp_path / summary.facts.checkpoints[0].path).is_dir()
    assert summary.facts.precision == "float32"
    assert set(summary.facts.metrics) == {
        "train/loss",
        "train/learning_rate",
        "train/gradient_norm",
        "train/tokens",
        "train/skipped_steps",
        "perf/tokens_per_second",
        "validation/loss",
        "validation/bits_per_byte",
    }
    model = load_model(tmp_path / "model")
    assert model.num_params() == summary.facts.num_params


def test_fit_validates_with_the_loss_of_an_independent_sum(root: Path, tmp_path: Path):
    run = small_run(root, train={"steps": 1})
    summary = trainer_of(run, tmp_path).fit()
    tokenizer = Tokenizer.load(root / "tokenizer")
    ids = ShardSet(root / "validation", context_tokens=CONTEXT_TOKENS).rows(range(12)).ids
    ids = torch.from_numpy(ids.astype(np.int64))
    sizes = torch.from_numpy(tokenizer.bytes_per_token.astype(np.int64))[ids[:, 1:]]
    with torch.no_grad():
        logits = load_model(tmp_path / "model")(ids[:, :-1]).transpose(1, 2)
        nll = F.cross_entropy(logits, ids[:, 1:], reduction="none") * (sizes > 0)
    assert summary.facts.metrics["validation/loss"] == pytest.approx(
        (nll.sum() / (sizes > 0).sum()).item(), rel=1e-5
    )
    assert summary.facts.metrics["validation/bits_per_byte"] == pytest.approx(
        (nll.sum() / sizes.sum()).item() / math.log(2), rel=1e-5
    )


def test_fit_in_other_micro_batches_gives_the_same_losses(root: Path, tmp_path: Path):
    for rows in (1, 4):
        run = small_run(root, train={"steps": 4, "micro_batch_rows": rows})
        trainer_of(run, tmp_path / str(rows)).fit()
    for key in ("train/loss", "train/gradient_norm"):
        one, all_rows = values(tmp_path / "1", key), values(tmp_path / "4", key)
        assert one == pytest.approx(all_rows, rel=1e-5)


def stop_after(trainer: Trainer, step: int) -> None:
    """Have the trainer's stop request come in during a step, as a signal does."""
    take_step = trainer.step

    def stepping(*args: Any) -> Any:
        outcome = take_step(*args)
        trainer.stop.is_set = outcome.step == step
        return outcome

    trainer.step = stepping


@pytest.mark.parametrize(
    ("step", "precision"),
    [(3, "float32"), (3, "bfloat16"), (5, "float32")],  # between everything; at a validation
)
def test_fit_stopped_and_resumed_equals_fit_at_once(
    root: Path, tmp_path: Path, step: int, precision: str
):
    run = small_run(root, train={"steps": 9, "precision": precision}, sample_prompts=("The",))
    trainer_of(run, tmp_path / "whole").fit()
    stopped = trainer_of(run, tmp_path / "parts")
    stop_after(stopped, step)
    with pytest.raises(TrainingInterruptedError) as interruption:
        stopped.fit()
    assert interruption.value.step == step
    summary = trainer_of(run, tmp_path / "parts").fit()
    assert saved_weights(tmp_path / "parts") == saved_weights(tmp_path / "whole")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert list(losses(tmp_path / "parts")) == list(range(1, 10))
    validations = [
        {
            event["step"]: event["validation/loss"]
            for event in read_events(tmp_path / name / "events.jsonl")
            if event["kind"] == "validation"
        }
        for name in ("whole", "parts")
    ]
    assert validations[0] == validations[1]
    assert list(validations[1]) == [5, 9]
    assert summary.facts.best_validation_loss == min(validations[0].values())


def test_fit_past_a_damaged_newest_checkpoint_ends_the_same(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = small_run(root, train={"steps": 9})
    trainer_of(run, tmp_path / "whole").fit()
    stopped = trainer_of(run, tmp_path / "parts")
    stop_after(stopped, 6)
    with pytest.raises(TrainingInterruptedError):
        stopped.fit()
    (tmp_path / "parts/checkpoints/step-00000006/state.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        trainer_of(run, tmp_path / "parts").fit()
    assert "step-00000006 is damaged" in caplog.text
    assert saved_weights(tmp_path / "parts") == saved_weights(tmp_path / "whole")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_fit_with_a_finished_last_step_only_finishes(root: Path, tmp_path: Path):
    run = small_run(root, train={"steps": 4})
    trainer_of(run, tmp_path).fit()
    expected = saved_weights(tmp_path)
    (tmp_path / "model" / "model.safetensors").unlink()
    summary = trainer_of(run, tmp_path).fit()
    assert saved_weights(tmp_path) == expected
    assert summary.counts.steps == 4


def test_fit_of_spoilt_weights_stops_before_the_update_naming_step_and_rows(
    root: Path, tmp_path: Path
):
    trainer = trainer_of(small_run(root, train={"steps": 9}), tmp_path)
    take_step = trainer.step
    before: dict[str, torch.Tensor] = {}

    def spoiling(batch: Any) -> Any:
        if trainer.loop.step == 5:
            with torch.no_grad():
                trainer.model.model.norm.weight.fill_(float("inf"))
            before.update({k: v.clone() for k, v in trainer.model.state_dict().items()})
        return take_step(batch)

    trainer.step = spoiling
    with pytest.raises(TrainingError, match="not finite") as error:
        trainer.fit()
    assert "step 6, rows " in str(error.value.where)
    assert "of mixture part 0" in str(error.value.where)
    assert all(
        torch.equal(trainer.model.state_dict()[name], value) for name, value in before.items()
    )
    assert trainer.checkpoints.steps() == [4]


def test_fit_that_reads_numbers_late_stops_before_a_checkpoint_naming_the_first_bad_step(
    root: Path, tmp_path: Path
):
    run = small_run(root, train={"steps": 9, "log_every_steps": 100, "checkpoint_every_steps": 7})
    trainer = trainer_of(run, tmp_path)
    trainer.reads_every_step = False  # as on a GPU
    add_up = trainer.accumulator.backward
    seen: list[dict[str, torch.Tensor]] = []

    def spoiling(*args: Any, **kwargs: Any) -> torch.Tensor:
        loss = add_up(*args, **kwargs)
        seen.append({k: v.clone() for k, v in trainer.model.state_dict().items()})
        return loss * (math.nan if len(seen) == 5 else 1.0)

    trainer.accumulator.backward = spoiling
    with pytest.raises(TrainingError, match="not finite") as error:
        trainer.fit()
    assert "step 5, rows " in str(error.value.where)
    assert len(seen) == 7
    assert all(torch.equal(seen[4][name], seen[5][name]) for name in seen[4])  # not applied
    assert not any(torch.equal(seen[3][name], seen[4][name]) for name in seen[4])
    assert trainer.checkpoints.steps() == [4]


SKIPPING = {  # after half a window of eight steps
    "steps": 24,
    "spike_sigmas": 1.0,  # low enough for ordinary batches
    "max_skipped_steps": 24,
    "learning_rate": 1e-6,  # so that losses are noise about a level
    "embedding_learning_rate": 1e-6,
    "norm_learning_rate": 1e-6,
    "checkpoint_every_steps": 1000,
    "validate_every_steps": 1000,
}


def state_of(trainer: Trainer) -> list[torch.Tensor]:
    states = (state for state in trainer.optimizer.state.values())
    moments = [torch.as_tensor(value) for state in states for value in state.values()]
    return [item.clone() for item in (*trainer.model.parameters(), *moments)]


def test_fit_skips_spikes_leaving_all_as_it_was_and_resumes_with_the_same_verdicts(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("model.train.spike_guard.MIN_WINDOW_STEPS", 8)
    run = small_run(root, train=SKIPPING)
    whole = trainer_of(run, tmp_path / "whole")
    take_step = whole.step
    unchanged: list[int] = []

    def comparing(batch: Any) -> Any:
        before = state_of(whole) if whole.loop.step >= 8 else []
        outcome = take_step(batch)
        if before and all(map(torch.equal, before, state_of(whole))):
            unchanged.append(outcome.step)
        return outcome

    whole.step = comparing
    whole.fit()
    events = read_events(tmp_path / "whole" / "events.jsonl")
    skipped = [event for event in events if event["kind"] == "skipped"]
    assert [event["step"] for event in skipped] == unchanged
    assert 1 < len(unchanged) < 16
    assert min(unchanged) > 8
    assert "rows " in skipped[0]["message"]
    assert values(tmp_path / "whole", "train/skipped_steps")[24] == len(unchanged)

    stopped = trainer_of(run, tmp_path / "parts")
    stop_after(stopped, unchanged[0])
    with pytest.raises(TrainingInterruptedError):
        stopped.fit()
    trainer_of(run, tmp_path / "parts").fit()
    assert saved_weights(tmp_path / "parts") == saved_weights(tmp_path / "whole")
    for key in ("train/loss", "train/skipped_steps"):
        assert values(tmp_path / "parts", key) == values(tmp_path / "whole", key)


def test_fit_with_too_many_spikes_stops_naming_their_steps(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("model.train.spike_guard.MIN_WINDOW_STEPS", 8)
    run = small_run(root, train=SKIPPING | {"max_skipped_steps": 1})
    with pytest.raises(TrainingError, match="too many updates were skipped") as error:
        trainer_of(run, tmp_path).fit()
    assert "at most 1 of 128 steps" in str(error.value.expected)
    assert str(error.value.found).startswith("2: steps ")


class ReadsOfTheDevice(TorchFunctionMode):
    """Notes every call that hands a tensor's value to Python, or its bytes to the host."""

    NAMES = frozenset(
        ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__")
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in self.NAMES:
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_step_hands_nothing_from_the_device_to_the_host(root: Path, tmp_path: Path):
    trainer = trainer_of(small_run(root, train={"steps": 3}), tmp_path)
    trainer.reads_every_step = False  # as on a GPU
    trainer.step(trainer.reader.read(trainer.loop.loader))
    batch = trainer.reader.read(trainer.loop.loader)
    with ReadsOfTheDevice() as reads:
        trainer.step(batch)
        assert reads.found == []
        trainer.read_outcomes()
    assert reads.found == ["tolist"]


def test_fit_whose_validation_fails_has_written_the_checkpoint_before(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("no memory for it")

    monkeypatch.setattr("model.train.objectives.evaluate", fail)
    run = small_run(root, train={"steps": 9, "checkpoint_every_steps": 5})
    trainer = trainer_of(run, tmp_path)
    with pytest.raises(RuntimeError, match="no memory"):
        trainer.fit()
    assert trainer.checkpoints.newest() == 5


def test_fit_over_more_than_one_epoch_says_how_many(root: Path, tmp_path: Path):
    mixture = (MixturePart(shards="validation"),)  # 12 rows
    summary = trainer_of(small_run(root, train={"steps": 6}, mixture=mixture), tmp_path).fit()
    (event,) = [
        item for item in read_events(tmp_path / "events.jsonl") if item["kind"] == "repetition"
    ]
    assert event["epochs"] == summary.facts.epochs == 2.0
    assert event["message"] == "6 steps read the training rows 2.00 times"


def test_fit_keeps_the_best_and_the_pre_decay_checkpoint_beside_the_newest(
    root: Path, tmp_path: Path
):
    run = small_run(
        root,
        train={
            "steps": 8,
            "decay_frac": 0.5,  # step 5 has the last full rate
            "learning_rate": 0.05,
            "checkpoint_every_steps": 1,
            "validate_every_steps": 1,
            "keep_checkpoints": 1,
        },
    )
    summary = trainer_of(run, tmp_path).fit()
    measured = {
        event["step"]: event["validation/loss"]
        for event in read_events(tmp_path / "events.jsonl")
        if event["kind"] == "validation"
    }
    best = min(measured, key=measured.__getitem__)
    assert {item.step for item in summary.facts.checkpoints} == {best, 5, 8}
    assert [item.step for item in summary.facts.checkpoints if item.is_best] == [best]
    assert summary.facts.best_validation_loss == measured[best]


def test_fit_on_a_full_disk_keeps_earlier_checkpoints_and_continues_with_more_room(
    root: Path, tmp_path: Path
):
    run = small_run(root, train={"steps": 9})
    trainer_of(run, tmp_path / "whole").fit()
    small = tmp_path / "small"
    small.mkdir()
    num_bytes = sum(
        path.stat().st_size
        for path in trainer_of(run, tmp_path / "whole").checkpoints.path(8).iterdir()
    )
    with small_disk(small, num_bytes=int(2.5 * num_bytes)):
        trainer = trainer_of(run, small)
        with pytest.raises(DiskSpaceError, match="while a checkpoint was written"):
            trainer.fit()  # steps 4 and 8 fit, 9 does not
        assert trainer.checkpoints.newest() == 8
        subprocess.run(["mount", "-o", "remount,size=1g", str(small)], check=True)
        trainer_of(run, small).fit()
        assert saved_weights(small) == saved_weights(tmp_path / "whole")


def test_fit_from_given_weights_starts_with_them(root: Path, tmp_path: Path):
    trainer_of(small_run(root, train={"steps": 8}), tmp_path / "base").fit()
    run = small_run(root, train={"steps": 1}, init_from=str(tmp_path / "base" / "model"))
    trainer_of(run, tmp_path / "tuned").fit()
    assert losses(tmp_path / "tuned")[1] < losses(tmp_path / "base")[1] - 0.5


def test_trainer_from_weights_of_another_size_is_refused(root: Path, tmp_path: Path):
    trainer_of(small_run(root, train={"steps": 1}), tmp_path / "base").fit()
    run = small_run(root, train={"steps": 1}, init_from=str(tmp_path / "base" / "model"))
    run = run.model_copy(update={"model": ModelConfig(size="10m", context_tokens=CONTEXT_TOKENS)})
    with pytest.raises(ConfigError, match="another architecture") as error:
        trainer_of(run, tmp_path / "tuned")
    assert "width=320" in str(error.value.expected)
    assert "width=128" in str(error.value.found)


def test_trainer_with_another_tokenizer_is_refused(root: Path, tmp_path: Path):
    from tasks.config.corpus import TokenizerConfig
    from tasks.tokens.bpe import train_bpe

    config = TokenizerConfig(vocab_size=300)
    train_bpe(iter(SENTENCES), config=config, destination=tmp_path / "tokenizer")
    run = small_run(root, train={"steps": 1}, tokenizer=str(tmp_path / "tokenizer"))
    with pytest.raises(ConfigError, match="another tokenizer") as error:
        trainer_of(run, tmp_path)
    assert Tokenizer.load(root / "tokenizer").fingerprint in str(error.value)


def test_trainer_with_a_horizon_in_tokens_is_refused(root: Path, tmp_path: Path):
    run = small_run(root, train={"steps": 1})
    in_tokens = run.train.model_copy(update={"steps": None, "tokens": 6400})
    with pytest.raises(ConfigError, match=r"train\.steps is unset"):
        trainer_of(run.model_copy(update={"train": in_tokens}), tmp_path)


def test_trainer_with_more_rows_than_processes_share_is_refused(root: Path, tmp_path: Path):
    run = small_run(root, train={"steps": 1})
    with pytest.raises(ConfigError, match="evenly over the processes"):
        Trainer(run, directory=tmp_path, distributed=DistributedContext(size=3), stop=StopRequest())


def test_trainer_of_two_shard_sets_reads_both(root: Path, tmp_path: Path):
    mixture = (MixturePart(shards="training", weight=3.0), MixturePart(shards="validation"))
    trainer = trainer_of(small_run(root, train={"steps": 2}, mixture=mixture), tmp_path)
    trainer.fit()
    assert trainer.loop.loader.part_rows == (6, 2)


def test_fit_with_a_dead_mlflow_continues(
    root: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    dead = TrackingConfig(uri="http://127.0.0.1:9", run_id="0" * 32)
    summary = trainer_of(small_run(root, train={"steps": 2}, tracking=dead), tmp_path).fit()
    assert summary.counts.steps == 2
    assert "does not accept metrics" in caplog.text


def test_step_on_a_batch_without_targets_is_refused(root: Path, tmp_path: Path):
    trainer = trainer_of(small_run(root, train={"steps": 2}), tmp_path)
    batch = trainer.reader.read(trainer.loop.loader)
    masked = dataclasses.replace(batch, mask=torch.zeros_like(batch.mask), num_targets=0)
    with pytest.raises(TrainingError, match="no unmasked target") as error:
        trainer.step(masked)
    assert "step 1, rows" in str(error.value.where)
