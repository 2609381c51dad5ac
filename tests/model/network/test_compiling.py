"""Compiled training equals uncompiled training, and a failing compiler leaves it uncompiled."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
import torch._inductor.config

from model.config.runs import TrainRun
from model.network.compiling import MIN_CPU_FLOPS, compile_model
from model.network.gpt import GPT
from model.network.losses import next_token_loss
from model.runtime.distributed import DistributedContext, StopRequest
from model.train.trainer import Trainer, TrainingInterruptedError
from tests.support.small_model import random_ids, random_model
from tests.support.small_training import make_data_root, small_run

CPU = torch.device("cpu")
# Not ours: what torch 2.13 itself does while it compiles is deprecated or odd in places.
pytestmark = pytest.mark.filterwarnings("ignore")


def _gradients(model: GPT) -> dict[str, torch.Tensor]:
    ids = random_ids(2, 17)
    model.zero_grad()
    next_token_loss(model, ids, torch.ones_like(ids, dtype=torch.bool)).backward()
    return {name: item.grad for name, item in model.named_parameters() if item.grad is not None}


def _is_eager(model: GPT) -> bool:
    return model.model.training_block is None and model.score_chunk is None


@pytest.mark.parametrize(
    ("mode", "planned_flops"), [("off", 10 * MIN_CPU_FLOPS), ("auto", MIN_CPU_FLOPS / 2)]
)
def test_compile_model_leaves_short_runs_and_refusals_alone(mode, planned_flops):
    ours = random_model()
    how = compile_model(ours, mode, CPU, rows=2, planned_flops=planned_flops)
    assert how.startswith("eager: ")
    assert _is_eager(ours)


def test_compile_model_that_fails_says_so_and_trains(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(*_arguments: object, **_options: object):
        raise RuntimeError("no triton here\nmore")

    monkeypatch.setattr("torch.compile", lambda _function, **_options: fail)
    ours = random_model()
    expected = _gradients(ours)
    ours.zero_grad(set_to_none=True)
    with caplog.at_level(logging.WARNING):
        how = compile_model(ours, "on", CPU, rows=2)
    assert how == "eager: compiling failed: no triton here"
    assert "training continues uncompiled: no triton here" in caplog.text
    assert _is_eager(ours)
    assert all(torch.equal(item, expected[name]) for name, item in _gradients(ours).items())


@pytest.mark.slow
def test_compile_model_without_a_compiler_says_so_and_trains(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    ours = random_model()
    expected = _gradients(ours)
    ours.zero_grad()
    missing = torch._inductor.config.patch({"cpp.cxx": (str(tmp_path / "no-compiler"),)})
    with missing, caplog.at_level(logging.WARNING):
        how = compile_model(ours, "on", CPU, rows=2)
    torch._dynamo.reset()
    assert how.startswith("eager: compiling failed: ")
    assert "compiler" in how.removeprefix("eager: compiling failed: ").lower()
    assert "training continues uncompiled" in caplog.text
    assert _is_eager(ours)
    assert all(torch.equal(item, expected[name]) for name, item in _gradients(ours).items())


@pytest.mark.slow
def test_compile_model_compiles_one_block_for_all_layers_and_equals_eager():
    ours = random_model(num_layers=3)
    expected = _gradients(ours)
    ours.zero_grad()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    how = compile_model(ours, "on", CPU, rows=2)
    assert how.startswith("compiled in ")
    assert all(item.grad is None for item in ours.parameters())
    found = _gradients(ours)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # block and loss
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-4), name
    names = set(ours.state_dict())
    assert names == set(random_model(num_layers=3).state_dict())


@pytest.mark.slow
def test_compiled_training_stopped_and_resumed_equals_training_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("model.network.attention.BLOCK_QUERIES", 8)
    run = small_run(make_data_root(tmp_path / "data"), train={"steps": 6, "compile": "on"})
    whole, first, second = (_trainer(run, tmp_path / name) for name in ("whole", "parts", "parts"))
    assert whole.compiling.startswith("compiled in ")
    whole.fit()
    monkeypatch.setattr(first, "maybe_validate", lambda: first.stop.__setattr__("is_set", True))
    with pytest.raises(TrainingInterruptedError):
        first.fit()
    second.fit()
    models = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "parts")]
    assert models[0].read_bytes() == models[1].read_bytes()


def _trainer(run: TrainRun, directory: Path) -> Trainer:
    directory.mkdir(parents=True, exist_ok=True)
    return Trainer(run, directory=directory, distributed=DistributedContext(), stop=StopRequest())
