"""model.generate: greedy text equals transformers', sampling follows its seed and its limits."""

from __future__ import annotations

import pytest
import torch

from model.errors import TokenizerError
from model.generate import generate, pick_token
from tests.small_model import random_ids, random_model, reference_of

GREEDY = {"temperature": 0.0, "top_k": 0, "seed": 1}


def test_generate_greedy_equals_transformers():
    ours = random_model()
    prompt = random_ids(4).tolist()
    reference = reference_of(ours).generate(
        torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    assert generate(ours, prompt, num_tokens=12, **GREEDY) == reference[0, 4:].tolist()


def test_generate_same_seed_gives_same_ids_and_another_seed_others():
    ours = random_model()
    settings = {"num_tokens": 12, "temperature": 1.0, "top_k": 0}
    first = generate(ours, [1, 2], seed=1, **settings)
    assert generate(ours, [1, 2], seed=1, **settings) == first
    assert generate(ours, [1, 2], seed=2, **settings) != first
    assert len(first) == 12


def test_generate_stops_before_a_stop_id():
    ours = random_model()
    free = generate(ours, [1, 2], num_tokens=12, **GREEDY)
    stop = free[5]
    expected = free[: free.index(stop)]
    assert generate(ours, [1, 2], num_tokens=12, stop_ids={stop}, **GREEDY) == expected


def test_generate_beyond_the_context_goes_on_from_its_last_tokens():
    ours = random_model()
    long = random_ids(40).tolist()
    expected = generate(ours, long[-16:], num_tokens=3, **GREEDY)
    assert generate(ours, long, num_tokens=3, **GREEDY) == expected
    first = generate(ours, long[-16:], num_tokens=1, **GREEDY)
    second = generate(ours, [*long[-15:], *first], num_tokens=1, **GREEDY)
    assert [*first, *second] == expected[:2]


def test_pick_token_takes_only_the_likeliest_top_k():
    logits = torch.tensor([0.0, 3.0, 1.0, 2.9, -1.0])
    generator = torch.Generator().manual_seed(1)
    settings = {"temperature": 5.0, "generator": generator}
    assert {pick_token(logits, top_k=2, **settings) for _ in range(200)} == {1, 3}
    assert {pick_token(logits, top_k=1, **settings) for _ in range(20)} == {1}
    assert {pick_token(logits, top_k=0, **settings) for _ in range(400)} == {0, 1, 2, 3, 4}


def test_pick_token_frequencies_follow_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0])
    generator = torch.Generator().manual_seed(1)
    drawn = [pick_token(logits, temperature=2.0, top_k=0, generator=generator) for _ in range(4000)]
    found = torch.bincount(torch.tensor(drawn)) / len(drawn)
    assert torch.allclose(found, (logits / 2.0).softmax(0), atol=0.03)  # 4 standard deviations


@pytest.mark.parametrize(("prompt", "found"), [([], "no ids"), ([3, 96], "id 96"), ([-1], "id -1")])
def test_generate_impossible_prompt_is_refused(prompt, found):
    with pytest.raises(TokenizerError, match="cannot go on from this prompt") as caught:
        generate(random_model(), prompt, num_tokens=1, **GREEDY)
    assert found in str(caught.value)
    assert "from 0 to 95" in str(caught.value)
