"""generate: greedy text equals the whole pass and transformers', alone and in a batch."""

from __future__ import annotations

import pytest
import torch

from model.core.errors import TokenizerError
from model.inference.batching import BatchEngine, GenerationRequest
from model.inference.decoder import Decoder
from model.inference.generate import generate, generate_batch, stream_ids, stream_text
from model.inference.sampling import GREEDY, Sampling
from tests.support.small_model import random_ids, random_model, reference_of, small_tokenizer
from tests.support.small_tokenizer import VOCAB_SIZE

PLAIN = {"temperature": 0.0, "top_k": 0, "seed": 1}


def _whole_pass(model, ids: list[int], num_tokens: int) -> list[int]:
    """Greedy text by the forward pass alone, the whole window again for every token."""
    window, text = model.architecture.context_tokens, list(ids)
    with torch.inference_mode():
        for _ in range(num_tokens):
            text.append(int(model(torch.tensor([text[-window:]]))[0, -1].argmax()))
    return text[len(ids) :]


@pytest.mark.parametrize("tied", [True, False])
def test_generate_greedy_equals_the_whole_pass_token_for_token(tied):
    model = random_model(tied=tied, context_tokens=64)
    for seed in range(4):
        prompt = random_ids(5, seed=seed).tolist()
        assert generate(model, prompt, num_tokens=59, **PLAIN) == _whole_pass(model, prompt, 59)


def test_generate_greedy_equals_transformers():
    ours = random_model()
    prompt = random_ids(4).tolist()
    reference = reference_of(ours).generate(
        torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    assert generate(ours, prompt, num_tokens=12, **PLAIN) == reference[0, 4:].tolist()


def test_generate_same_seed_gives_same_ids_and_another_seed_others():
    ours = random_model()
    settings = {"num_tokens": 12, "temperature": 1.0, "top_k": 0}
    first = generate(ours, [1, 2], seed=1, **settings)
    assert generate(ours, [1, 2], seed=1, **settings) == first
    assert generate(ours, [1, 2], seed=2, **settings) != first
    assert len(first) == 12


def test_generate_stops_before_a_stop_id():
    ours = random_model()
    free = generate(ours, [1, 2], num_tokens=12, **PLAIN)
    stop = free[5]
    expected = free[: free.index(stop)]
    assert generate(ours, [1, 2], num_tokens=12, stop_ids={stop}, **PLAIN) == expected


def test_generate_no_tokens_are_none():
    assert generate(random_model(), [1, 2], num_tokens=0, **PLAIN) == []


def test_generate_beyond_the_context_continues_from_the_last_window():
    ours = random_model()  # a context of 16
    for length in (3, 16, 40):
        prompt = random_ids(length).tolist()
        assert generate(ours, prompt, num_tokens=25, **PLAIN) == _whole_pass(ours, prompt, 25)


def test_batch_of_different_lengths_equals_each_prompt_alone():
    ours = random_model(context_tokens=24)
    prompts = [random_ids(length, seed=length).tolist() for length in (1, 9, 30, 4, 2)]
    for num_slots in (1, 2, 16):  # fewer slots than prompts: the others wait
        texts = generate_batch(ours, prompts, num_tokens=30, sampling=GREEDY, num_slots=num_slots)
        assert texts == [_whole_pass(ours, prompt, 30) for prompt in prompts]


def test_batch_samples_are_those_of_each_prompt_alone():
    ours = random_model(context_tokens=32)
    prompts = [random_ids(length, seed=length).tolist() for length in (3, 7, 5)]
    sampling = Sampling(temperature=1.0, seed=10)
    texts = generate_batch(ours, prompts, num_tokens=20, sampling=sampling)
    for index, prompt in enumerate(prompts):
        own = sampling.model_copy(update={"seed": 10 + index})
        assert texts[index] == list(stream_ids(ours, prompt, num_tokens=20, sampling=own))


def test_evicted_request_frees_its_slot_and_changes_no_other():
    ours = random_model(context_tokens=32)
    engine = BatchEngine(Decoder(ours), num_slots=2)
    prompts = [[1, 2], [3], [4, 5, 6]]
    first, second, third = (GenerationRequest(p, max_tokens=10, sampling=GREEDY) for p in prompts)
    for request in (first, second, third):
        engine.add(request)
    assert [request for request, _ in engine.step()] == [first, second]
    engine.evict(first)
    while engine.step():
        pass
    assert first.output_ids == _whole_pass(ours, prompts[0], 1)
    assert second.output_ids == _whole_pass(ours, prompts[1], 10)
    assert third.output_ids == _whole_pass(ours, prompts[2], 10)
    assert not engine.is_busy


def test_closed_stream_leaves_the_decoder_usable():
    decoder = Decoder(random_model())
    stream = stream_ids(decoder, [1, 2], num_tokens=10, sampling=GREEDY)
    first = next(stream)
    stream.close()
    assert decoder.num_rows == 0
    assert next(stream_ids(decoder, [1, 2], num_tokens=10, sampling=GREEDY)) == first


def test_stream_text_is_the_text_of_the_ids(tmp_path):
    tokenizer = small_tokenizer(tmp_path)
    ours = random_model(vocab_size=VOCAB_SIZE, context_tokens=64)
    ids = generate(ours, [1, 2], num_tokens=50, **PLAIN)
    ordinary = [token for token in ids if token >= 32]
    pieces = list(stream_text(ours, tokenizer, [1, 2], num_tokens=50, sampling=GREEDY))
    assert "".join(pieces).rstrip("\ufffd") == tokenizer.decode(ordinary).rstrip("\ufffd")
    assert len(pieces) > 10
    stop = pieces[3] + pieces[4]
    stopped = stream_text(
        ours, tokenizer, [1, 2], num_tokens=50, sampling=GREEDY, stop_strings=[stop]
    )
    assert "".join(stopped) == "".join(pieces).partition(stop)[0]


@pytest.mark.parametrize(("prompt", "found"), [([], "no ids"), ([3, 96], "id 96"), ([-1], "id -1")])
def test_generate_impossible_prompt_is_refused(prompt, found):
    with pytest.raises(TokenizerError, match="cannot continue this prompt") as caught:
        generate(random_model(), prompt, num_tokens=1, **PLAIN)
    assert found in str(caught.value)
    assert "from 0 to 95" in str(caught.value)


def test_generate_batch_until_ends_each_text_by_itself():
    ours, prompts = random_model(), [[1, 2], [3], [4, 5, 6]]
    whole = generate_batch(ours, prompts, num_tokens=8, sampling=GREEDY)
    stops = {text[2] for text in whole}
    cut = generate_batch(
        ours, prompts, num_tokens=8, sampling=GREEDY, until=lambda ids: ids[-1] in stops
    )
    for text, expected in zip(cut, whole, strict=True):
        end = next(index for index, token in enumerate(expected) if token in stops)
        assert text == expected[: end + 1]
