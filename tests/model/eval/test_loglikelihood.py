"""loglikelihood and multiple_choice: batches equal one text at a time; measures as defined."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from model.core.errors import TokenizerError
from model.data.items import Item, items_digest
from model.eval.loglikelihood import Loglikelihood, encode_requests, loglikelihoods
from model.eval.multiple_choice import ItemScore, score_items, summarise
from tests.support.small_model import random_model, small_tokenizer

PAIRS = [
    ("", " The cat sat on the mat."),
    ("The cat", " sat"),
    ("The cat sat on ", "the mat"),  # the blank counts as the continuation's
    ("The dog didn't mind: " * 3, " they're friends."),
    ("In 1984", " there were 12,345 cats; in 2024 there are more than 67,890 of them."),
]
ITEM = Item("piqa", "", "", 0, ("Q:",), ("a", "a long one"), 1)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    tokenizer = small_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return random_model(vocab_size=tokenizer.vocab_size, tied=False), tokenizer


def alone(network, tokenizer, context: str, continuation: str) -> Loglikelihood:
    """What the definition says, with one text in a batch and every logit computed."""
    blanks = context[len(context.rstrip()) :]
    context, continuation = context.rstrip(), blanks + continuation
    whole = tokenizer.encode(context + continuation)
    given = len(tokenizer.encode(context))
    if not context:
        whole, given = [tokenizer.end_of_text_id, *whole], 1
    targets = whole[given:]
    window = whole[-(network.architecture.context_tokens + 1) :]
    with torch.no_grad():
        log_probs = network(torch.tensor([window[:-1]]))[0].double().log_softmax(-1)
    targets = targets[-len(log_probs) :]
    rows = log_probs[-len(targets) :]
    nats = sum(float(row[token]) for row, token in zip(rows, targets, strict=True))
    return Loglikelihood(nats, rows.argmax(-1).tolist() == targets)


def test_likelihoods_equal_one_text_at_a_time(parts):
    network, tokenizer = parts
    requests = encode_requests(tokenizer, PAIRS * 3)
    found = loglikelihoods(network, requests)
    context_tokens = network.architecture.context_tokens
    assert any(len(request.ids) > context_tokens + 1 for request in requests)
    for (context, continuation), likelihood in zip(PAIRS * 3, found, strict=True):
        expected = alone(network, tokenizer, context, continuation)
        assert likelihood.nats == pytest.approx(expected.nats, abs=1e-4)
        assert likelihood.is_greedy == expected.is_greedy


def test_likelihood_of_what_the_model_would_write_is_greedy(parts):
    network, tokenizer = parts
    ids = [tokenizer.end_of_text_id, *tokenizer.encode("The cat")]
    request = encode_requests(tokenizer, [("", "The cat")])[0]
    best = int(network(torch.tensor([ids]))[0, -1].argmax())
    for token in (best, (best + 1) % tokenizer.vocab_size):
        (found,) = loglikelihoods(network, [replace(request, ids=[*ids, token], num_targets=1)])
        assert found.is_greedy == (token == best)


def test_encode_continuation_without_a_token_is_refused(parts):
    with pytest.raises(TokenizerError, match="no token of its own"):
        encode_requests(parts[1], [("The cat", "")])


def scored(item: Item, *nats: float, is_greedy: bool = False) -> ItemScore:
    return ItemScore(item, tuple(Loglikelihood(value, is_greedy) for value in nats))


def test_measures_worked_example():
    # One character at -2 nats is likelier, ten at -10 are likelier per character.
    score = scored(ITEM, -2.0, -10.0)
    assert not score.is_correct
    assert score.is_correct_normed
    (task,) = summarise([score, scored(ITEM, -20.0, -10.0)])
    assert (task.acc, task.acc_norm, task.num_items) == (0.5, 1.0, 2)
    assert task.acc_stderr == pytest.approx(0.5)  # sample deviation of 0 and 1, over sqrt(2)
    assert task.facts() == {"piqa_acc": 0.5, "piqa_acc_norm": 1.0}


def test_last_words_are_right_if_written_and_have_a_perplexity():
    item = Item("lambada", "", "", 0, ("The cat",), ("sat",), 0)
    (task,) = summarise([scored(item, -1.0, is_greedy=True), scored(item, -3.0)])
    assert task.acc == 0.5
    assert task.perplexity == pytest.approx(math.exp(2))


def test_task_with_subsets_scores_their_mean():
    few = Item("blimp", "islands", "adjunct", 0, ("",), ("good", "bad"), 0)
    many = Item("blimp", "islands", "wh", 1, ("",), ("good", "bad"), 0)
    right, wrong = (-1.0, -2.0), (-2.0, -1.0)
    scores = [scored(few, *right), *(scored(many, *wrong) for _ in range(3))]
    (task,) = summarise(scores)
    assert task.subsets == {"adjunct": 1.0, "wh": 0.0}
    assert task.acc == 0.5
    assert task.facts() == {"blimp_acc": 0.5, "blimp_islands_acc": 0.25}


def test_score_items_keeps_answers_with_their_items(parts):
    network, tokenizer = parts
    winogrande = Item("winogrande", "", "", 3, ("The cat", "The big dog"), ("sat.",), 1)
    scores = score_items(network, tokenizer, [ITEM, winogrande])
    for score in scores:
        expected = [alone(network, tokenizer, *pair).nats for pair in score.item.requests]
        assert [answer.nats for answer in score.answers] == pytest.approx(expected, abs=1e-4)


def test_items_digest_is_of_what_is_asked():
    assert items_digest([ITEM]) == items_digest([replace(ITEM, number=7)])
    assert items_digest([ITEM]) != items_digest([replace(ITEM, gold=0)])
