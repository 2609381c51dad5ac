"""model.inference.decoder: logits of the whole forward pass, with rows prefilled and evicted."""

from __future__ import annotations

import pytest
import torch

from model.core.errors import ConfigError
from model.inference import decoder as decoder_module
from model.inference.decoder import Decoder, Projection
from tests.support.small_model import random_ids, random_model


def _expected(model, rows: list[list[int]]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.stack([model(torch.tensor([ids]))[0, -1] for ids in rows])


@pytest.mark.parametrize("tied", [True, False])
def test_decoder_prefilled_and_evicted_rows_have_the_logits_of_the_whole_pass(tied):
    model = random_model(tied=tied, context_tokens=48)
    decoder = Decoder(model)
    rows = [random_ids(length, seed=length).tolist() for length in (5, 3, 9)]
    logits = decoder.prefill(rows)
    for step in range(30):
        torch.testing.assert_close(logits, _expected(model, rows), atol=2e-5, rtol=0)
        if step == 4:  # the first is evicted: the last takes its place
            decoder.evict(0)
            rows, logits = [rows[2], rows[1]], logits[[2, 1]]
        if step == 6:  # the last is evicted: the others stay
            decoder.evict(1)
            rows, logits = rows[:1], logits[:1]
        if step == 8:
            new = [random_ids(length, seed=length).tolist() for length in (4, 1)]
            logits = torch.cat((logits, decoder.prefill(new)))
            rows += new
        tokens = logits.argmax(dim=-1).tolist()
        rows = [[*row, token] for row, token in zip(rows, tokens, strict=True)]
        logits = decoder.step(tokens)
    assert decoder.lengths == [len(row) for row in rows]


def test_decoder_cache_that_grows_keeps_what_it_holds(monkeypatch):
    monkeypatch.setattr(decoder_module, "FIRST_CAPACITY_TOKENS", 4)
    model = random_model(context_tokens=40)
    decoder = Decoder(model)
    rows = [random_ids(3).tolist()]
    decoder.prefill(rows)
    for token in range(36):
        rows[0].append(token)
        logits = decoder.step([token])
        torch.testing.assert_close(logits, _expected(model, rows), atol=2e-5, rtol=0)
    assert decoder.lengths == [39]


def test_decoder_without_onednn_gives_the_same_logits(monkeypatch):
    model = random_model()
    rows = [random_ids(5).tolist(), random_ids(7).tolist()]
    packed = Decoder(model).prefill(rows)
    monkeypatch.setattr(decoder_module, "_packed", lambda _: None)
    torch.testing.assert_close(Decoder(model).prefill(rows), packed, atol=2e-5, rtol=0)


def test_projection_gives_the_products_with_all_matrices_one_after_the_other():
    matrices = [torch.randn(size, 6) for size in (4, 8, 2)]
    x = torch.randn(3, 6)
    with torch.inference_mode():
        products = Projection(matrices)(x)
    torch.testing.assert_close(products, torch.cat([x @ matrix.T for matrix in matrices], dim=-1))


@pytest.mark.parametrize("prompts", [[[]], [[1] * 17], []])
def test_decoder_prompt_that_does_not_fit_is_refused(prompts):
    with pytest.raises(ConfigError, match="does not fit the model's context"):
        Decoder(random_model()).prefill(prompts)


def test_decoder_row_that_has_filled_its_context_takes_no_token():
    decoder = Decoder(random_model())
    decoder.prefill([[1] * 16])
    with pytest.raises(ConfigError, match="does not fit"):
        decoder.step([1])
    with pytest.raises(ConfigError, match="one token for each row"):
        decoder.step([1, 2])
