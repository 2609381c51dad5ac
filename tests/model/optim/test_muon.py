"""muon: directions against a singular value decomposition; one process against several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.optim.muon import momentum_at, orthogonalise
from model.optim.optimizer import Optimizer
from tests.support.small_training import ROOT


def _matrices(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _muon(parameters: list[torch.nn.Parameter], **settings: object) -> Optimizer:
    group = {
        "params": parameters,
        "peak_learning_rate": 0.1,
        "weight_decay": 0.0,
        "momentum": 0.95,
        "start_momentum": 0.85,
        "momentum_warmup_steps": 300,
    }
    return Optimizer([group | settings])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(32, 32), (24, 64), (64, 24)])
def test_orthogonalise_has_the_singular_vectors_of_a_float64_svd(shape, dtype):
    matrices = _matrices(3, *shape)
    found = orthogonalise(matrices, dtype=dtype)
    assert found.dtype == dtype
    left, _, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    inner = left.mT @ found.double() @ right.mT  # diagonal, near one, for U V^T
    values = inner.diagonal(dim1=1, dim2=2)
    off_diagonal = inner - torch.diag_embed(values)
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    assert off_diagonal.abs().max() < tolerance
    large = torch.linalg.svdvals(matrices / matrices.norm(dim=(1, 2), keepdim=True)) > 0.02
    assert 0.65 < values[large].min() < values[large].max() < 1.25
    cosine = torch.nn.functional.cosine_similarity((left @ right).flatten(1), found.flatten(1))
    assert cosine.min() > 0.95


def test_orthogonalise_zero_stays_zero():
    assert torch.equal(
        orthogonalise(torch.zeros(2, 3, 4), dtype=torch.float32), torch.zeros(2, 3, 4)
    )


def test_orthogonalise_scale_of_a_matrix_does_not_matter():
    matrices = _matrices(2, 8, 12)
    found = orthogonalise(matrices * 1e-5, dtype=torch.float32)
    assert torch.allclose(found, orthogonalise(matrices, dtype=torch.float32), atol=1e-5)


def test_momentum_at_table():
    steps = torch.tensor([0.0, 150.0, 300.0, 900.0])
    found = momentum_at(steps, start=0.85, final=0.95, warmup_steps=300)
    assert found.tolist() == pytest.approx([0.85, 0.90, 0.95, 0.95])
    assert momentum_at(steps, start=0.85, final=0.95, warmup_steps=0)[1] == pytest.approx(0.95)


def test_muon_two_steps_worked_example():
    # Orthogonal matrices, which the iteration only scales, and alike: s is that scale. Every
    # direction has the sign of its Nesterov momentum.
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = _muon([weight], weight_decay=0.5, momentum=0.8, start_momentum=0.8)
    s = orthogonalise(turn[None], dtype=torch.float32)[0, 0, 1].item()
    weight.grad = turn.clone()
    optimizer.step()
    assert torch.allclose(weight, 0.95 * torch.ones(2, 2) - 0.1 * s * turn, atol=1e-6)
    momentum = optimizer.state[weight]["momentum"]
    assert torch.allclose(momentum, 0.2 * turn)
    before = weight.detach().clone()
    weight.grad = -turn  # momentum 0.8 * 0.2 - 0.2 = -0.04; a look ahead: 0.8 * -0.04 - 0.2 < 0
    optimizer.step()
    assert torch.allclose(momentum, -0.04 * turn, atol=1e-6)
    assert torch.allclose(weight, 0.95 * before + 0.1 * s * turn, atol=1e-6)


@pytest.mark.parametrize(("shape", "factor"), [((4, 4), 1.0), ((16, 4), 2.0), ((4, 16), 1.0)])
def test_muon_update_is_scaled_by_shape(shape, factor):
    weight = torch.nn.Parameter(torch.zeros(shape))
    gradient = _matrices(*shape)
    weight.grad = gradient.clone()
    _muon([weight]).step()
    expected = -0.1 * factor * orthogonalise(gradient[None], dtype=torch.float32)[0]
    assert torch.allclose(weight, expected, atol=1e-6)


def test_muon_matrices_of_one_shape_move_as_each_would_alone():
    together = [torch.nn.Parameter(_matrices(6, 4, seed=seed)) for seed in range(3)]
    alone = [torch.nn.Parameter(item.detach().clone()) for item in together]
    optimizers = [_muon(together), *(_muon([item]) for item in alone)]
    for step in range(3):
        for index, item in enumerate(together):
            item.grad = _matrices(6, 4, seed=10 * step + index)
            alone[index].grad = item.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for found, expected in zip(together, alone, strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


TRAIN = """
import sys
from pathlib import Path
import torch
from model.runtime.distributed import DistributedContext
from model.optim.optimizer import build_optimizer
from safetensors.torch import save_file
from tests.support.small_model import random_ids, random_model, resolved

distributed = DistributedContext.from_environment()
if distributed.is_main:
    distributed.announce("train")
else:
    distributed.await_decision()
with distributed.process_group():
    for dtype in ("float32", "bfloat16"):
        network = random_model(num_layers=3)  # 3 matrices of some shapes: not all ranks have one
        config = resolved(network, steps=9, precision=dtype)
        optimizer = build_optimizer(network, config, distributed)
        for step in range(4):
            ids = random_ids(2, 17, seed=step)
            loss = torch.nn.functional.cross_entropy(network(ids[:, :-1]).mT, ids[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.update(torch.tensor(float(step != 2)))
        path = Path(sys.argv[1], f"{dtype}-{distributed.size}-{distributed.rank}.safetensors")
        save_file(network.state_dict(), path)
"""


def test_muon_over_processes_gives_the_weights_of_one(tmp_path: Path):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launchers = {
        1: [],
        2: ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
    }
    for launcher in launchers.values():
        subprocess.run(
            [sys.executable, *launcher, str(script), str(tmp_path)], env=environment, check=True
        )
    for dtype in ("float32", "bfloat16"):
        alone = (tmp_path / f"{dtype}-1-0.safetensors").read_bytes()
        for rank in (0, 1):
            assert (tmp_path / f"{dtype}-2-{rank}.safetensors").read_bytes() == alone
