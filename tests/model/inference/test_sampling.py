"""sampling: what may be drawn equals transformers', frequencies follow it, rows are apart."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from pydantic import ValidationError
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from model.inference import sampling as sampling_module
from model.inference.sampling import (
    GREEDY,
    Sampler,
    Sampling,
    _candidate_finder,
    penalised,
    pick_tokens,
)

SETTINGS = [
    {"top_k": 5},
    {"top_p": 0.9},
    {"top_p": 0.3, "temperature": 1.7},
    {"min_p": 0.2},
    {"top_k": 40, "top_p": 0.8, "min_p": 0.05, "temperature": 0.6},
    {"temperature": 3.0},
    {"top_k": 500},
]


def _sampling(**changes: object) -> Sampling:
    plain = {"temperature": 1.0, "top_p": 1.0, "repetition_penalty": 1.0}
    return Sampling.model_validate(plain | changes)


def _reference(logits: torch.Tensor, sampling: Sampling, ids: list[int]) -> torch.Tensor:
    processors = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty),
            TemperatureLogitsWarper(sampling.temperature),
            TopKLogitsWarper(sampling.top_k or logits.shape[1]),
            TopPLogitsWarper(sampling.top_p),
            MinPLogitsWarper(sampling.min_p),
        ]
    )
    return processors(torch.tensor([ids]), logits.clone()).softmax(dim=-1)


def _dense(logits: torch.Tensor, sampling: Sampling, ids: list[int]) -> torch.Tensor:
    logits = penalised(logits, [Sampler(sampling, ids)])
    found = _candidate_finder(sampling)(logits, [sampling])
    return torch.zeros_like(logits).scatter(1, found.ids, found.probabilities)


@pytest.mark.parametrize("changes", SETTINGS)
@pytest.mark.parametrize("first", [4, 256])  # 4: most limits reach beyond what is looked at first
def test_probabilities_equal_transformers(changes, first, monkeypatch):
    monkeypatch.setattr(sampling_module, "FIRST_CANDIDATES", first)
    logits = 3 * torch.randn(1, 300, generator=torch.Generator().manual_seed(1))
    sampling, ids = _sampling(repetition_penalty=1.3, **changes), [3, 7, 7, 250]
    expected = _reference(logits, sampling, ids)
    torch.testing.assert_close(_dense(logits, sampling, ids), expected, atol=1e-6, rtol=1e-5)


def test_rows_of_different_settings_draw_as_if_they_were_alone():
    logits = 2 * torch.randn(len(SETTINGS) + 1, 300, generator=torch.Generator().manual_seed(2))
    settings = [_sampling(seed=5, repetition_penalty=1.2, **changes) for changes in SETTINGS]
    settings.append(GREEDY)
    together = [Sampler(item, [1, 2]) for item in settings]
    alone = [Sampler(item, [1, 2]) for item in settings]
    for _ in range(20):
        picked = pick_tokens(logits, together)
        rows = zip(logits, alone, strict=True)
        assert picked == [pick_tokens(row[None], [sampler])[0] for row, sampler in rows]


@pytest.mark.parametrize("changes", [{}, {"top_k": 3}])
def test_frequencies_follow_the_probabilities(changes):
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    sampler = Sampler(_sampling(temperature=2.0, seed=1, **changes), [])
    drawn = Counter(pick_tokens(logits, [sampler])[0] for _ in range(4000))
    found = torch.tensor([drawn[token] for token in range(3)]) / 4000
    assert torch.allclose(found, (logits[0] / 2.0).softmax(0), atol=0.03)  # 4 standard deviations


def test_temperature_zero_takes_the_likeliest_whatever_else_is_set():
    logits = torch.tensor([[0.0, 3.0, 2.9]])
    sampler = Sampler(_sampling(temperature=0, top_p=0.1, top_k=3), [])
    assert {pick_tokens(logits, [sampler])[0] for _ in range(20)} == {1}


def test_repetition_penalty_counts_prompt_and_answer_and_both_signs():
    logits = torch.tensor([[2.0, 1.9, -1.0, -1.1]])
    sampler = Sampler(_sampling(temperature=0, repetition_penalty=2.0), [0])
    assert pick_tokens(logits, [sampler]) == [1]  # 0 stands in the prompt: 1.0 is left of its 2.0
    assert pick_tokens(logits, [sampler]) == [0]  # now both were said: 1.0 beats 0.95
    assert penalised(logits, [Sampler(sampler.sampling, [2])])[0, 2] == -2.0


def test_seed_unset_draws_differently_each_time():
    logits = torch.zeros(1, 1000)
    rows = [[pick_tokens(logits, [Sampler(_sampling(), [])])[0] for _ in range(5)] for _ in "ab"]
    assert rows[0] != rows[1]


@pytest.mark.parametrize(
    "changes", [{"temperature": -1}, {"top_p": 0}, {"min_p": 2}, {"top_k": -1}, {"seed": -1}]
)
def test_impossible_setting_is_refused(changes):
    with pytest.raises(ValidationError, match=next(iter(changes))):
        _sampling(**changes)
