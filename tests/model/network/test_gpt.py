"""gpt: the network equals transformers' Qwen3, looks only back; its loss is cross-entropy."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import model.network.losses
from model.core.errors import ConfigError
from model.network.gpt import GPT, rotary_table, rotate
from model.network.losses import chunked_cross_entropy, next_token_loss
from tests.support.small_model import random_ids, random_model, reference_of, small_architecture


def _gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    named = dict(module.named_parameters())
    return {name: item.grad for name, item in named.items() if item.grad is not None}


@pytest.mark.parametrize("tied", [True, False])
def test_gpt_logits_equal_transformers(tied):
    ours = random_model(tied=tied)
    ids = random_ids(3, 16)
    expected = reference_of(ours)(ids).logits
    assert expected.std() > 0.5  # a difference would show
    assert (ours(ids) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("tied", [True, False])
def test_gpt_parameter_names_are_those_of_transformers(tied):
    ours = random_model(tied=tied)
    assert {name for name, _ in ours.named_parameters()} == {
        name for name, _ in reference_of(ours).named_parameters()
    }


@pytest.mark.parametrize("tied", [True, False])
def test_loss_gradients_equal_transformers(tied):
    ours = random_model(tied=tied)
    reference = reference_of(ours)
    ids = random_ids(3, 17)
    mask = random_ids(3, 17, seed=2) % 3 > 0

    loss = next_token_loss(ours, ids, mask)
    (loss * 0.5).backward()
    logits = reference(ids[:, :-1]).logits.flatten(0, 1)
    each = F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")
    expected = (each * mask[:, 1:].flatten()).sum()
    (expected * 0.5).backward()

    assert torch.allclose(loss, expected, rtol=1e-5)
    found, wanted = _gradients(ours), _gradients(reference)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-4), name


def test_gpt_later_tokens_leave_earlier_logits_alone():
    ours = random_model()
    ids = random_ids(1, 16)
    changed = ids.clone()
    changed[0, 9:] = (changed[0, 9:] + 1) % 96
    before, after = ours(ids), ours(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_gpt_too_long_sequence_is_refused():
    with pytest.raises(ConfigError, match="longer than the model's context") as caught:
        random_model()(random_ids(1, 17))
    assert "at most 16" in str(caught.value)
    assert "17 tokens" in str(caught.value)


def test_init_weights_same_seed_gives_same_model_and_spares_the_global_generator():
    torch.manual_seed(5)
    first, second, other = (GPT(small_architecture()) for _ in range(3))
    state = torch.get_rng_state()
    first.init_weights(7)
    second.init_weights(7)
    other.init_weights(8)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert not torch.equal(first.head_weight, other.head_weight)


def test_init_weights_blocks_start_as_identity():
    ours = GPT(small_architecture())
    ours.init_weights(1)
    ids = random_ids(2, 16)
    assert torch.equal(ours.hidden(ids), ours.model.norm(ours.model.embed_tokens(ids)))


@pytest.mark.parametrize(("tied", "scale"), [(True, 0.02), (False, 1.0)])
def test_init_weights_an_untied_stream_starts_at_unit_scale(tied, scale):
    ours = GPT(small_architecture(tied=tied, width=96, num_heads=6))
    ours.init_weights(1)
    stream = ours.model.embed_tokens(random_ids(2, 16))
    assert stream.pow(2).mean().sqrt().item() == pytest.approx(scale, rel=0.1)
    block = ours.model.layers[0]
    read = block.mlp.up_proj(block.post_attention_layernorm(stream))
    assert read.pow(2).mean().sqrt().item() == pytest.approx(1.0, rel=0.1)


def test_next_token_loss_of_untied_model_starts_at_log_vocabulary():
    ours = GPT(small_architecture(tied=False))
    ours.init_weights(1)
    mask = torch.ones(2, 17, dtype=torch.bool)
    loss = next_token_loss(ours, random_ids(2, 17), mask)
    assert loss.item() == pytest.approx(32 * math.log(96), rel=1e-6)


def test_next_token_loss_counts_unmasked_targets_only():
    ours = random_model()
    ids = random_ids(2, 17)
    mask = torch.zeros(2, 17, dtype=torch.bool)
    mask[1, 4] = True
    loss = next_token_loss(ours, ids, mask)
    expected = -ours(ids[:, :-1]).log_softmax(-1)[1, 3, ids[1, 4]]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    mask[:, 0] = True  # a first token has nothing before it
    assert torch.equal(next_token_loss(ours, ids, mask), loss)


@pytest.mark.parametrize("chunk_logits", [1, 96 * 7, 2**20])
def test_chunked_cross_entropy_any_chunk_equals_torch(chunk_logits, monkeypatch):
    monkeypatch.setattr(model.network.losses, "CHUNK_LOGITS", {"cpu": chunk_logits})
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(20, 8, generator=generator, requires_grad=True)
    weight = torch.randn(96, 8, generator=generator, requires_grad=True)
    targets = random_ids(20)
    mask = random_ids(20, seed=2) % 2 > 0

    each = F.cross_entropy(hidden @ weight.T, targets, reduction="none")
    expected = (each * mask).sum()
    wanted = torch.autograd.grad(expected, (hidden, weight))
    loss = chunked_cross_entropy(hidden, weight, targets, mask)
    found = torch.autograd.grad(loss, (hidden, weight))

    assert torch.allclose(loss, expected, rtol=1e-6)
    assert torch.allclose(found[0], wanted[0], atol=1e-5)
    assert torch.allclose(found[1], wanted[1], atol=1e-5)


def test_chunked_cross_entropy_without_gradients_is_the_same_number():
    ours = random_model()
    ids, mask = random_ids(2, 17), torch.ones(2, 17, dtype=torch.bool)
    loss = next_token_loss(ours, ids, mask)
    with torch.inference_mode():
        assert torch.equal(next_token_loss(ours, ids, mask), loss)


def test_next_token_loss_under_autocast_stays_fp32_and_follows_torch():
    ours = random_model()
    ids, mask = random_ids(2, 17), torch.ones(2, 17, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        loss = next_token_loss(ours, ids, mask)
        logits = ours(ids[:, :-1])
    assert logits.dtype == torch.bfloat16
    expected = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, expected, rtol=1e-6)
    loss.backward()
    assert all(
        item.grad is not None and item.grad.dtype == item.dtype for item in ours.parameters()
    )


def test_rotate_turned_products_depend_on_distance_only():
    cosine, sine = rotary_table(num_positions=12, head_dim=8, theta=100.0)
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(8, generator=generator).expand(1, 1, 12, 8) for _ in range(2))
    products = (rotate(q, cosine, sine) @ rotate(k, cosine, sine).mT)[0, 0]
    assert torch.allclose(products[3, 1], products[11, 9], atol=1e-5)
    assert not torch.allclose(products[3, 1], products[3, 2], atol=1e-2)


def test_rotate_one_pair_worked_example():
    cosine, sine = rotary_table(num_positions=2, head_dim=2, theta=10_000.0)
    turned = rotate(torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]), cosine, sine)[0, 0]
    assert turned[0].tolist() == [1.0, 0.0]
    assert turned[1].tolist() == pytest.approx([math.cos(1.0), math.sin(1.0)])
