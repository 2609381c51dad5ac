"""model.eval.validation: sums over held-out rows equal a plain count, however they are split."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from model.core.errors import TrainingError
from model.data.shards import ShardSet
from model.eval.validation import Evaluation, bits_per_byte, evaluate
from tests.support.small_model import random_model, small_shards, small_tokenizer

CONTEXT_TOKENS = 16


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    root = tmp_path_factory.mktemp("held_out")
    tokenizer = small_tokenizer(root / "tokenizer")
    flat = small_shards(root / "shards", tokenizer, context_tokens=CONTEXT_TOKENS)
    shards = ShardSet(root / "shards", context_tokens=CONTEXT_TOKENS)
    network = random_model(vocab_size=tokenizer.vocab_size)
    return network, shards, tokenizer, flat


def test_bits_per_byte_worked_example():
    # Two tokens of probability 1/4 are four bits; over eight bytes that is half a bit each.
    assert bits_per_byte(2 * math.log(4), num_bytes=8) == pytest.approx(0.5)


def test_evaluate_equals_a_plain_count_over_the_flat_tokens(held_out):
    network, shards, tokenizer, flat = held_out
    nll, num_targets, num_bytes = 0.0, 0, 0
    for index in range(1, len(flat)):
        size = len(tokenizer.decode_bytes([flat[index]]))
        if flat[index] == tokenizer.end_of_text_id:
            continue  # a special token is no text
        start = (index - 1) // CONTEXT_TOKENS * CONTEXT_TOKENS
        with torch.inference_mode():
            logits = network(torch.tensor([flat[start:index]]))[0, -1]
        nll -= logits.log_softmax(-1)[flat[index]].item()
        num_targets += 1
        num_bytes += size
    found = evaluate(network, shards, tokenizer.bytes_per_token)
    assert (found.num_targets, found.num_bytes) == (num_targets, num_bytes)
    assert found.nll_nats == pytest.approx(nll, rel=1e-5)
    assert found.loss == pytest.approx(nll / num_targets, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nll / math.log(2) / num_bytes, rel=1e-5)


def test_evaluate_by_document_equals_each_document_read_alone(held_out):
    network, shards, tokenizer, flat = held_out
    nll = 0.0
    for index in range(1, len(flat)):
        row_start = (index - 1) // CONTEXT_TOKENS * CONTEXT_TOKENS
        document = max(
            (at for at in range(row_start, index) if flat[at] == tokenizer.end_of_text_id),
            default=row_start,
        )
        if flat[index] != tokenizer.end_of_text_id:
            with torch.inference_mode():
                logits = network(torch.tensor([flat[document:index]]))[0, -1]
            nll -= logits.log_softmax(-1)[flat[index]].item()
    found = evaluate(network, shards, tokenizer.bytes_per_token, attention="document")
    assert found.nll_nats == pytest.approx(nll, rel=1e-5)
    assert found.nll_nats != evaluate(network, shards, tokenizer.bytes_per_token).nll_nats


def test_evaluate_shares_of_three_processes_add_up(held_out):
    network, shards, tokenizer, _ = held_out
    sizes = tokenizer.bytes_per_token
    whole = evaluate(network, shards, sizes, batch_rows=2)
    shares = [
        evaluate(network, shards, sizes, batch_rows=2, rank=rank, world_size=3) for rank in range(3)
    ]
    together = sum(shares, Evaluation(nll_nats=0.0, num_targets=0, num_bytes=0))
    assert together.num_targets == whole.num_targets
    assert together.num_bytes == whole.num_bytes
    assert together.nll_nats == pytest.approx(whole.nll_nats, rel=1e-6)
    assert len({share.nll_nats for share in shares}) == 3


def test_evaluate_limit_takes_whole_rows_from_the_first_on(held_out):
    network, shards, tokenizer, flat = held_out
    sizes = tokenizer.bytes_per_token
    found = evaluate(network, shards, sizes, max_tokens=2 * CONTEXT_TOKENS + 5)
    expected = int((sizes[np.array(flat[1 : 2 * CONTEXT_TOKENS + 1])] > 0).sum())
    assert found.num_targets == expected
    assert evaluate(network, shards, sizes, max_tokens=1).num_targets > 0
    more = evaluate(network, shards, sizes, max_tokens=10**9)
    assert more == evaluate(network, shards, sizes)


def test_evaluate_more_processes_than_rows_leaves_some_with_nothing(held_out):
    network, shards, tokenizer, _ = held_out
    nothing = evaluate(
        network, shards, tokenizer.bytes_per_token, rank=shards.num_rows, world_size=1000
    )
    assert nothing == Evaluation(nll_nats=0.0, num_targets=0, num_bytes=0)


def test_evaluation_without_text_has_no_bits_per_byte():
    empty = Evaluation(nll_nats=0.0, num_targets=0, num_bytes=0)
    with pytest.raises(TrainingError, match="nothing to evaluate") as caught:
        _ = empty.bits_per_byte
    assert "validation.num_documents" in str(caught.value)
    with pytest.raises(TrainingError):
        _ = empty.loss
