"""attention: equal to torch's, forward and backward, and to documents on their own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_mask

import model.network.attention
from model.network.attention import attend, backend_name, blockwise, scope_of, visible
from model.network.losses import next_token_loss
from tests.support.small_model import random_ids, random_model

DOCUMENTS = torch.tensor([[0] * 9 + [1] * 2 + [2] * 15, [0] * 26])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch):
    """Several blocks, the last one short, and heads in two groups."""
    monkeypatch.setattr(model.network.attention, "BLOCK_QUERIES", 8)
    monkeypatch.setattr(model.network.attention, "SCORES_AT_ONCE", 2 * 8 * 26)


def _inputs(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (2, 3, 26, 8)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def _with_gradients(gathered: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    above = torch.randn(gathered.shape, generator=generator).to(gathered.dtype)
    return [gathered, *torch.autograd.grad(gathered, inputs, above)]


@pytest.mark.parametrize("documents", [None, DOCUMENTS])
def test_blockwise_equals_sdpa_with_gradients(documents: torch.Tensor | None):
    q, k, v = inputs = _inputs()
    scope = visible(DOCUMENTS if documents is not None else DOCUMENTS * 0)[:, None]
    expected = _with_gradients(F.scaled_dot_product_attention(q, k, v, attn_mask=scope), inputs)
    found = _with_gradients(blockwise(q, k, v, documents), inputs)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_blockwise_in_bf16_is_about_as_exact_as_sdpa():
    exact = _inputs()
    truth = _with_gradients(F.scaled_dot_product_attention(*exact, is_causal=True), exact)
    rounded = [item.detach().bfloat16().requires_grad_() for item in exact]
    theirs = _with_gradients(F.scaled_dot_product_attention(*rounded, is_causal=True), rounded)
    ours = _with_gradients(blockwise(*rounded), rounded)
    for true, one, other in zip(truth, ours, theirs, strict=True):
        assert (one.float() - true).norm() <= 2 * (other.float() - true).norm()


def test_attend_takes_blockwise_for_training_only_and_both_agree():
    q, k, v = _inputs()
    training = attend(q, k, v, DOCUMENTS)
    with torch.no_grad():
        inference = attend(q, k, v, DOCUMENTS)
    assert torch.allclose(training, inference, atol=1e-5)


@pytest.mark.parametrize("documents", [None, DOCUMENTS])
def test_blockwise_operators_pass_torchs_checks(documents: torch.Tensor | None):
    q, k, v = (item.detach() for item in _inputs())
    torch.library.opcheck(model.network.attention._blockwise, (q, k, v, documents))
    gathered, kept = model.network.attention._blockwise(q, k, v, documents)
    arguments = (gathered, q, k, v, documents, kept)
    torch.library.opcheck(model.network.attention._blockwise_backward, arguments)


def test_hidden_by_documents_equals_each_document_alone():
    ours = random_model(context_tokens=26)
    ids = random_ids(2, 26)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            found = ours.hidden(ids, DOCUMENTS)
            for start, end in ((0, 9), (9, 11), (11, 26)):  # rotary angles are relative
                alone = ours.hidden(ids[:1, start:end])
                assert torch.allclose(found[:1, start:end], alone, atol=1e-4)
            assert torch.allclose(found[1], ours.hidden(ids[1:])[0], atol=1e-4)
            assert not torch.allclose(found[0], ours.hidden(ids)[0], atol=1e-2)


def test_next_token_loss_by_documents_leaves_out_the_last_column():
    ours = random_model(context_tokens=26)
    ids = random_ids(2, 27)
    mask = torch.ones_like(ids, dtype=torch.bool)
    documents = F.pad(DOCUMENTS, (0, 1), value=9)
    loss = next_token_loss(ours, ids, mask, documents)
    logits = F.linear(ours.hidden(ids[:, :-1], DOCUMENTS), ours.head_weight)
    expected = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    assert torch.allclose(loss, expected, rtol=1e-5)


def test_scope_of_a_compiled_gpu_block_sees_what_the_mask_shows():
    sees = model.network.attention.same_document(DOCUMENTS)
    mask = create_mask(sees, 2, None, 26, 26, device="cpu")
    assert torch.equal(mask[:, 0], visible(DOCUMENTS))


def test_scope_of_a_cpu_is_the_documents():
    assert scope_of(DOCUMENTS, is_compiled=True) is DOCUMENTS
    assert scope_of(None, is_compiled=True) is None


def test_backend_name_of_a_cpu():
    assert backend_name(torch.device("cpu"), by_documents=True, is_compiled=False) == "blockwise"
