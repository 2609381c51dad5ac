"""model.optim: AdamW equals torch's, the learning rate follows its table, clipping its norm."""

from __future__ import annotations

import pytest
import torch

from model.errors import ConfigError
from model.optim import AdamW, build_optimizer, clip_gradients, learning_rate, set_learning_rate
from model.train_config import TrainConfig
from tests.small_model import random_ids, random_model


def _parameters(seed: int = 1) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(5, 3), (7,), (2, 4, 3)]
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def _give_gradients(parameters: list[torch.nn.Parameter], *, seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for item in parameters:
        item.grad = scale * torch.randn(item.shape, generator=generator)


def test_adamw_fifty_steps_equal_torch():
    ours, theirs = _parameters(), _parameters()
    settings = {"betas": (0.8, 0.95), "weight_decay": 0.1}
    mine = AdamW(ours, learning_rate=0.01, epsilon=1e-8, **settings)
    reference = torch.optim.AdamW(theirs, lr=0.01, eps=1e-8, **settings)
    for step in range(50):
        set_learning_rate(mine, 0.01 * (1 + step % 3))
        set_learning_rate(reference, 0.01 * (1 + step % 3))
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
    AdamW([weight], learning_rate=0.1, weight_decay=0.5).step()
    # Decay takes 0.1 * 0.5 of the weight; the first step is one learning rate against the sign.
    assert weight.tolist() == pytest.approx([1.9 - 0.1, 1.9 + 0.1])


def test_adamw_restored_state_goes_on_bit_for_bit():
    straight, broken = _parameters(), _parameters()
    whole = AdamW(straight, learning_rate=0.01)
    before = AdamW(broken, learning_rate=0.01)
    for step in range(3):
        _give_gradients(straight, seed=step)
        _give_gradients(broken, seed=step)
        whole.step()
        before.step()
    after = AdamW(broken, learning_rate=0.5)
    after.load_state_dict(before.state_dict())
    _give_gradients(straight, seed=9)
    _give_gradients(broken, seed=9)
    whole.step()
    after.step()
    assert all(torch.equal(a, b) for a, b in zip(straight, broken, strict=True))


def test_build_optimizer_decays_block_matrices_and_untied_head_only():
    network = random_model(tied=False)
    optimizer = build_optimizer(network, TrainConfig(steps=10, weight_decay=0.3))
    names = {item: name for name, item in network.named_parameters()}
    decay = {
        names[item]: group["weight_decay"]
        for group in optimizer.param_groups
        for item in group["params"]
    }
    assert decay.keys() == set(names.values())
    assert decay["lm_head.weight"] == 0.3
    assert decay["model.layers.1.mlp.down_proj.weight"] == 0.3
    assert decay["model.embed_tokens.weight"] == 0.0
    assert decay["model.layers.0.self_attn.q_norm.weight"] == 0.0
    assert decay["model.norm.weight"] == 0.0


def test_build_optimizer_learns_one_batch_by_heart():
    network = random_model()
    config = TrainConfig(steps=60, learning_rate=0.02, warmup_steps=5)
    optimizer = build_optimizer(network, config)
    ids = random_ids(4, 16)
    losses = []
    for step in range(60):
        set_learning_rate(optimizer, learning_rate(step, config))
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
    config = TrainConfig(
        steps=20, learning_rate=2.0, warmup_steps=4, decay_frac=0.5, final_learning_rate_frac=0.1
    )
    assert learning_rate(step, config) == pytest.approx(2.0 * expected)


def test_learning_rate_overlapping_warmup_and_decay_takes_the_lower():
    config = TrainConfig(steps=10, learning_rate=1.0, warmup_steps=8, decay_frac=1.0)
    rates = [learning_rate(step, config) for step in range(10)]
    assert rates == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_learning_rate_without_warmup_and_decay_is_flat():
    config = TrainConfig(steps=10, learning_rate=0.3, warmup_steps=0, decay_frac=0.0)
    assert {learning_rate(step, config) for step in range(10)} == {0.3}


def test_learning_rate_horizon_in_tokens_is_refused():
    with pytest.raises(ConfigError, match="horizon in steps") as caught:
        learning_rate(0, TrainConfig(tokens=1_000_000))
    assert "train.tokens=1000000" in str(caught.value)
    assert "with_horizon_in_steps" in str(caught.value)


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
