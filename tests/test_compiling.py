"""model.compiling: what compiles gives the same training; what cannot goes on uncompiled."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from model.compiling import MIN_CPU_FLOPS, compile_model
from model.gpt import GPT, next_token_loss, score_logits
from tests.small_model import random_ids, random_model

CPU = torch.device("cpu")


def _gradients(model: GPT) -> dict[str, torch.Tensor]:
    ids = random_ids(2, 17)
    model.zero_grad()
    next_token_loss(model, ids, torch.ones_like(ids, dtype=torch.bool)).backward()
    return {name: item.grad for name, item in model.named_parameters() if item.grad is not None}


def _is_eager(model: GPT) -> bool:
    return model.model.training_block is None and model.score_chunk is score_logits


@pytest.mark.parametrize(
    ("mode", "planned_flops"), [("off", 10 * MIN_CPU_FLOPS), ("auto", MIN_CPU_FLOPS / 2)]
)
def test_compile_model_leaves_short_runs_and_refusals_alone(mode, planned_flops):
    ours = random_model()
    how = compile_model(ours, mode, CPU, rows=2, planned_flops=planned_flops)
    assert how.startswith("eager: ")
    assert _is_eager(ours)


def test_compile_model_without_a_compiler_says_so_and_trains(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (str(tmp_path / "no-compiler"),))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    ours = random_model()
    expected = _gradients(ours)
    ours.zero_grad()
    with caplog.at_level(logging.WARNING):
        how = compile_model(ours, "on", CPU, rows=2)
    torch._dynamo.reset()
    assert how.startswith("eager: compiling failed: ")
    assert "training goes on uncompiled" in caplog.text
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
