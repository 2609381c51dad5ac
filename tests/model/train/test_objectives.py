"""model.train.objectives: likelihoods, margins and gradients are those of the paper."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import model.network.losses
from model.network.gpt import GPT
from model.network.losses import chunked_token_losses, next_token_loss, token_losses
from model.train.objectives import PreferenceLoss, answer_log_probs, reward_margins
from tests.support.small_model import random_ids, random_model, reference_of

BETA = 0.3


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        model.network.losses.CHUNK_LOGITS, "cpu", 7 * 96
    )  # seven tokens: no divisor of a row


def pairs(num_pairs: int = 4, width: int = 17) -> tuple[Tensor, Tensor]:
    """Rows that share a pair's prompt, and marks on answers of different lengths."""
    ids = random_ids(2 * num_pairs, width)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row in range(2 * num_pairs):
        begin, end = 3 + row // 2, 9 + row // 2 + row % 3
        ids[row, :begin] = ids[row // 2 * 2, :begin]
        mask[row, begin:end] = True
    return ids, mask


def plain_log_probs(network: GPT, ids: Tensor, mask: Tensor) -> tuple[Tensor, torch.nn.Module]:
    """Return what transformers' Qwen3 says in float64, all logits at once."""
    peer = reference_of(network).double()
    logits = peer(ids[:, :-1]).logits
    each = logits.log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    return (each * mask[:, 1:]).sum(1), peer


def test_reward_margin_worked_example():
    # Gains of 1 and 0 nats: half a nat of margin at beta = 0.5; -log sigmoid(0.5) = log(1 + e^-0.5)
    margin = reward_margins(torch.tensor([-3.0, -5.0]), torch.tensor([-4.0, -5.0]), beta=0.5)
    assert margin.tolist() == [0.5]
    assert -F.logsigmoid(margin).item() == pytest.approx(math.log(1 + math.exp(-0.5)))


@pytest.mark.parametrize("tied", [True, False])
def test_answer_log_probs_equal_transformers_in_float64(tied: bool):
    network = random_model(tied=tied)
    ids, mask = pairs()
    expected, _ = plain_log_probs(network, ids, mask)
    assert answer_log_probs(network, ids, mask).tolist() == pytest.approx(expected.tolist(), 1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_equal_the_papers_formula_in_float64(tied: bool):
    """The formula is written out as trl's ``sigmoid`` loss has it."""
    policy, start = random_model(seed=1, tied=tied), random_model(seed=2, tied=tied)
    ids, mask = pairs()
    sums = PreferenceLoss(policy, start, beta=BETA)(ids, mask, None)
    sums[0].backward()

    wanted, peer = plain_log_probs(policy, ids, mask)
    reference = plain_log_probs(start, ids, mask)[0].detach()
    logratios = wanted[0::2] - wanted[1::2]
    ref_logratios = reference[0::2] - reference[1::2]
    margins = BETA * (logratios - ref_logratios)
    losses = -F.logsigmoid(margins)
    losses.sum().backward()

    expected = [losses.sum(), (margins > 0).sum(), margins.sum()]
    assert sums.tolist() == pytest.approx([item.item() for item in expected], rel=1e-4)
    assert 0 < sums[1] < len(margins)  # both signs, so that a swapped pair would show
    ours = dict(policy.named_parameters())
    for name, parameter in peer.named_parameters():
        gradient = ours[name].grad
        assert gradient is not None
        assert parameter.grad is not None
        torch.testing.assert_close(gradient.double(), parameter.grad, rtol=2e-3, atol=1e-5)
    assert all(item.grad is None and not item.requires_grad for item in start.parameters())


def test_loss_of_the_reference_itself_is_log_two():
    network = random_model()
    sums = PreferenceLoss(network, random_model(), beta=BETA)(*pairs(), None)
    assert sums.tolist() == pytest.approx([4 * math.log(2), 0, 0], abs=1e-5)


def test_what_stands_behind_the_answers_changes_nothing():
    network = random_model()
    ids, mask = pairs()
    end = int(mask.any(0).nonzero().max()) + 1
    assert end < ids.shape[1]
    changed = ids.clone()
    changed[:, end:] = 5
    assert torch.equal(
        answer_log_probs(network, changed, mask), answer_log_probs(network, ids, mask)
    )
    network.model.training_block = lambda block, *rest: block(*rest)  # as compiled: whole rows
    assert torch.allclose(
        answer_log_probs(network, changed, mask),
        answer_log_probs(network, ids[:, :end], mask[:, :end]),
    )


def test_token_losses_sum_to_the_next_token_loss():
    network = random_model()
    ids, mask = pairs()
    each = token_losses(network, ids, mask)
    assert each.shape == (8, 16)
    assert torch.all((each > 0) == mask[:, 1:])
    assert each.sum().item() == pytest.approx(next_token_loss(network, ids, mask).item(), rel=1e-6)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest result of any operation."""

    num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in tree_leaves(result):
            if isinstance(item, Tensor):
                self.num_elements = max(self.num_elements, item.numel())
        return result


def test_chunked_token_losses_hold_no_more_logits_than_a_chunk():
    hidden = torch.randn(20, 4, requires_grad=True)
    weight = torch.randn(96, 4, requires_grad=True)
    targets, mask = random_ids(20), random_ids(20, seed=2) % 3 > 0
    scales = torch.randn(20)
    with LargestTensor() as largest:
        losses = chunked_token_losses(hidden, weight, targets, mask)
        found = torch.autograd.grad((losses * scales).sum(), (hidden, weight))
    assert largest.num_elements == 7 * 96

    plain = F.cross_entropy(hidden @ weight.T, targets, reduction="none") * mask
    wanted = torch.autograd.grad((plain * scales).sum(), (hidden, weight))
    torch.testing.assert_close(losses, plain)
    torch.testing.assert_close(found, wanted)


def test_loss_under_autocast_stays_fp32_and_near():
    policy, start = random_model(seed=1), random_model(seed=2)
    ids, mask = pairs()
    loss = PreferenceLoss(policy, start, beta=BETA)
    exact = loss(ids, mask, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = loss(ids, mask, None)
    sums[0].backward()
    assert sums.dtype == torch.float32
    assert sums[0].item() == pytest.approx(exact[0].item(), rel=0.05)
    assert policy.head_weight.grad is not None
    assert policy.head_weight.grad.isfinite().all()
