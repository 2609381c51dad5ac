"""Optimizer: AdamW and clipping equal torch's, groups, schedule and skipped updates."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from model.config.train import TrainConfig
from model.core.errors import ConfigError
from model.network.gpt import GPT
from model.optim.optimizer import Optimizer, build_optimizer, clip_gradients, set_learning_rate
from model.optim.schedule import learning_rate_factor
from model.runtime.distributed import DistributedContext
from model.train.snapshot import join_tensors, split_tensors
from tests.support.small_model import random_ids, random_model, resolved


def _parameters(seed: int = 1) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(5, 3), (7,), (2, 4, 3)]
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def _give_gradients(parameters: list[torch.nn.Parameter], *, seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for item in parameters:
        item.grad = scale * torch.randn(item.shape, generator=generator)


def _adamw(parameters: list[torch.nn.Parameter], **settings: Any) -> Optimizer:
    group = {
        "params": parameters,
        "peak_learning_rate": 0.01,
        "betas": (0.9, 0.95),
        "epsilon": 1e-10,
        "weight_decay": 0.1,
    }
    return Optimizer([group | settings])


def _train(network: GPT, optimizer: Optimizer, *, steps: range, factor: float = 1.0) -> None:
    """Take steps on gradients that depend on the step and the weights alone."""
    for step in steps:
        optimizer.zero_grad()
        ids = random_ids(2, 17, seed=step)
        torch.nn.functional.cross_entropy(network(ids[:, :-1]).mT, ids[:, 1:]).backward()
        set_learning_rate(optimizer, 1.0 / (1 + step))
        optimizer.update(torch.tensor(factor))


def _bits(network: GPT, optimizer: Optimizer) -> list[bytes]:
    """Return every bit of weights and state: unlike equal numbers, zeros of both signs differ."""
    tensors, _ = split_tensors(optimizer.state_dict())
    values = [*network.state_dict().values(), *(tensors[name] for name in sorted(tensors))]
    return [item.numpy().tobytes() for item in values]


def _same(one: list[torch.nn.Parameter], other: list[torch.nn.Parameter]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_adamw_fifty_steps_equal_torch():
    ours, theirs = _parameters(), _parameters()
    settings = {"betas": (0.8, 0.95), "weight_decay": 0.1}
    mine = _adamw(ours, epsilon=1e-8, **settings)
    reference = torch.optim.AdamW(theirs, lr=0.01, eps=1e-8, **settings)
    for step in range(50):
        set_learning_rate(mine, 1 + step % 3)
        reference.param_groups[0]["lr"] = 0.01 * (1 + step % 3)
        _give_gradients(ours, seed=step)
        _give_gradients(theirs, seed=step)
        if step % 7 == 3:  # a parameter without a gradient keeps its own count of steps
            ours[1].grad = theirs[1].grad = None
        mine.step()
        reference.step()
    for found, expected in zip(ours, theirs, strict=True):
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_adamw_first_step_worked_example():
    weight = torch.nn.Parameter(torch.tensor([2.0, 2.0]))
    weight.grad = torch.tensor([3.0, -0.1])
    _adamw([weight], peak_learning_rate=0.1, weight_decay=0.5).step()
    # Decay takes 0.1 * 0.5 of the weight; the first step is one learning rate against the sign.
    assert weight.tolist() == pytest.approx([1.9 - 0.1, 1.9 + 0.1])


def test_step_is_an_update_with_factor_one():
    ours, theirs = _parameters(), _parameters()
    stepped, updated = _adamw(ours), _adamw(theirs)
    for step in range(3):
        _give_gradients(ours, seed=step)
        _give_gradients(theirs, seed=step)
        assert stepped.step(lambda: 0.25) == 0.25
        updated.update(torch.ones(()))
    assert _same(ours, theirs)


@pytest.mark.parametrize("name", ["muon", "adamw"])
@pytest.mark.parametrize("steps_before", [0, 3])
def test_update_with_factor_zero_leaves_every_bit(name, steps_before):
    network = random_model(tied=False)
    config = resolved(network, optimizer=name)
    optimizer = build_optimizer(network, config, DistributedContext())
    _train(network, optimizer, steps=range(steps_before))
    before = _bits(network, optimizer)
    _train(network, optimizer, steps=range(7, 8), factor=0.0)
    for item in network.parameters():
        item.grad = torch.full_like(item, float("nan"))
    optimizer.update(torch.zeros(()))
    after = _bits(network, optimizer)
    if steps_before:
        assert after == before
    else:  # the state exists now, and is zero
        assert after[: len(before)] == before
        assert not any(b"".join(after[len(before) :]))


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_state_through_a_file_continues_bit_for_bit(name):
    straight, broken = random_model(tied=False), random_model(tied=False)
    config = resolved(straight, optimizer=name)
    whole = build_optimizer(straight, config, DistributedContext())
    _train(straight, whole, steps=range(6))
    before = build_optimizer(broken, config, DistributedContext())
    _train(broken, before, steps=range(3))
    tensors, rest = split_tensors(before.state_dict())
    after = build_optimizer(broken, config, DistributedContext())
    after.load_state_dict(join_tensors(tensors, json.loads(json.dumps(rest))))
    _train(broken, after, steps=range(3, 6))
    assert _bits(broken, after) == _bits(straight, whole)


def test_build_optimizer_every_parameter_has_the_rate_and_decay_of_its_part():
    network = random_model(tied=False)
    given = {
        "learning_rate": 0.1,
        "embedding_learning_rate": 0.2,
        "head_learning_rate": 0.3,
        "norm_learning_rate": 0.4,
        "weight_decay": 0.5,
        "embedding_weight_decay": 0.6,
        "head_weight_decay": 0.7,
    }
    optimizer = build_optimizer(network, resolved(network, **given), DistributedContext())
    names = {item: name for name, item in network.named_parameters()}
    found = {
        names[item]: (group["peak_learning_rate"], group["weight_decay"], "momentum" in group)
        for group in optimizer.param_groups
        for item in group["params"]
    }
    assert found.keys() == set(names.values())
    assert found["model.layers.1.mlp.down_proj.weight"] == (0.1, 0.5, True)
    assert found["model.embed_tokens.weight"] == (0.2, 0.6, False)
    assert found["lm_head.weight"] == (0.3, 0.7, False)
    assert found["model.layers.0.self_attn.q_norm.weight"] == (0.4, 0.0, False)
    assert found["model.norm.weight"] == (0.4, 0.0, False)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.05, 0.1, 0.15, 0.2]
    assert optimizer.learning_rate("matrix") == 0.05
    assert optimizer.learning_rate("head") == 0.15


def test_build_optimizer_refuses_a_config_that_is_not_resolved():
    network = random_model()
    config = resolved(network).model_copy(update={"learning_rate": None})
    with pytest.raises(ConfigError, match=r"train\.learning_rate is unset"):
        build_optimizer(network, config, DistributedContext())


def test_build_optimizer_matrices_that_write_to_a_small_stream_move_by_its_scale():
    network = random_model(tied=True)
    config = resolved(network, learning_rate=0.1, weight_decay=0.5)
    optimizer = build_optimizer(network, config, DistributedContext())
    rates = {group["part"]: group["peak_learning_rate"] for group in optimizer.param_groups}
    decays = {group["part"]: group["weight_decay"] for group in optimizer.param_groups}
    assert rates["matrix"] == 0.1
    assert rates["writer"] == pytest.approx(0.1 * 0.02)
    assert rates["writer"] * decays["writer"] == pytest.approx(0.1 * 0.5)  # decay is not smaller


def test_build_optimizer_adamw_decays_block_matrices_and_untied_head_only():
    network = random_model(tied=False)
    config = resolved(network, optimizer="adamw", learning_rate=0.25)
    optimizer = build_optimizer(network, config, DistributedContext())
    decay = {group["part"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decay == {"matrix": 0.1, "writer": 0.1, "embedding": 0.0, "head": 0.1, "norm": 0.0}
    assert {group["peak_learning_rate"] for group in optimizer.param_groups} == {0.25}
    assert not any("momentum" in group for group in optimizer.param_groups)


@pytest.mark.parametrize("name", ["muon", "adamw"])
@pytest.mark.parametrize("tied", [True, False])
def test_build_optimizer_overfits_one_batch(name, tied):
    network = random_model(tied=tied)
    given = {"learning_rate": 0.02, "embedding_learning_rate": 0.02, "head_learning_rate": 0.02}
    given |= {"steps": 80, "optimizer": name, "warmup_steps": 5, "weight_decay": 0.0}
    config = resolved(network, **given)
    optimizer = build_optimizer(network, config, DistributedContext())
    ids = random_ids(4, 16)
    losses = []
    for step in range(80):
        set_learning_rate(optimizer, learning_rate_factor(step, config))
        loss = torch.nn.functional.cross_entropy(network(ids[:, :-1]).mT, ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(network.parameters(), max_norm=1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < 3.0 < losses[0]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.25),  # warmup of 4 steps never has rate zero
        (1, 0.5),
        (3, 1.0),
        (4, 1.0),
        (9, 1.0),
        (10, 1.0),  # decay starts here
        (11, 0.91),
        (15, 0.55),
        (19, 0.19),  # aimed at 0.1 at step 20, which is never taken
        (20, 0.1),
        (25, 0.1),
    ],
)
def test_learning_rate_table(step, expected):
    config = TrainConfig(steps=20, warmup_steps=4, decay_frac=0.5, final_learning_rate_frac=0.1)
    assert learning_rate_factor(step, config) == pytest.approx(expected)


def test_learning_rate_overlapping_warmup_and_decay_takes_the_lower():
    config = TrainConfig(steps=10, warmup_steps=8, decay_frac=1.0)
    rates = [learning_rate_factor(step, config) for step in range(10)]
    assert rates == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_learning_rate_without_warmup_and_decay_is_flat():
    config = TrainConfig(steps=10, warmup_steps=0, decay_frac=0.0)
    assert {learning_rate_factor(step, config) for step in range(10)} == {1.0}


def test_learning_rate_horizon_in_tokens_is_refused():
    with pytest.raises(ConfigError, match=r"train\.steps is unset") as caught:
        learning_rate_factor(0, TrainConfig(tokens=1_000_000))
    assert "train.tokens=1000000" in str(caught.value)
    assert "model.config.defaults.resolve" in str(caught.value)


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_clip_gradients_equals_torch(scale):
    ours, theirs = _parameters(), _parameters()
    _give_gradients(ours, seed=3, scale=scale)
    _give_gradients(theirs, seed=3, scale=scale)
    norm = clip_gradients(ours, max_norm=1.5)
    assert torch.allclose(norm, torch.nn.utils.clip_grad_norm_(theirs, 1.5))
    for found, expected in zip(ours, theirs, strict=True):
        assert torch.allclose(found.grad, expected.grad)


def test_clip_gradients_small_gradients_stay_bit_for_bit():
    ours = _parameters()
    _give_gradients(ours, seed=3, scale=0.01)
    before = [item.grad.clone() for item in ours]
    clip_gradients(ours, max_norm=1.5)
    assert all(torch.equal(item.grad, old) for item, old in zip(ours, before, strict=True))


def test_clip_gradients_non_finite_norm_is_reported():
    ours = _parameters()
    _give_gradients(ours, seed=3)
    ours[1].grad[2] = float("nan")
    assert not torch.isfinite(clip_gradients(ours, max_norm=1.0))
