"""tasks.tokens.packing: concat-and-chunk and best-fit rows against counts by brute force."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.tokens.packing import pack_best_fit, pack_concat


def test_pack_concat_two_shards_cuts_rows_that_share_one_token():
    rows = pack_concat([9, 1, 0, 6], 4)
    assert rows.shard.tolist() == [0, 0, 3, 3]
    assert rows.start.tolist() == [0, 4, 0, 4]
    assert rows.length.tolist() == [5, 5, 5, 2]
    assert (rows.num_rows, rows.num_targets, rows.num_padding(4)) == (4, 8 + 5, 3)


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), max_size=6), st.integers(1, 20))
def test_pack_concat_any_shards_every_token_but_the_first_is_a_target_once(counts, context_tokens):
    rows = pack_concat(counts, context_tokens)
    targets = Counter()
    for shard, start, length in zip(rows.shard, rows.start, rows.length, strict=True):
        assert 2 <= length <= context_tokens + 1
        targets.update((int(shard), int(token)) for token in range(start + 1, start + length))
    expected = Counter((s, t) for s, count in enumerate(counts) for t in range(1, count))
    assert targets == expected


def lengths_of(*shards):
    return [np.array(lengths, dtype=np.int32) for lengths in shards]


def text_of(shard_lengths):
    """Flat tokens of each shard, each written as (shard, document, place in it)."""
    return [
        [(s, d, place) for d, length in enumerate(lengths) for place in range(length)]
        for s, lengths in enumerate(shard_lengths)
    ]


def rows_as_read(segments, text):
    """Each row as its tokens, and whether each token is a target, as in model.data.rows."""
    for first, stop in zip(segments.row_offsets[:-1], segments.row_offsets[1:], strict=True):
        tokens, is_target = [], []
        for index in range(first, stop):
            start = int(segments.start[index])
            piece = text[segments.shard[index]][start : start + int(segments.length[index])]
            assert len(piece) == segments.length[index]
            begins_document = piece[0][2] == 0
            is_target += [bool(tokens) and begins_document] + [True] * (len(piece) - 1)
            tokens += piece
        yield tokens, is_target


def targets_of(segments, text):
    """Return each target as (previous token, next token of its document or "end")."""
    for tokens, is_target in rows_as_read(segments, text):
        for before, token, counts in zip(tokens, tokens[1:], is_target[1:], strict=False):
            if counts:
                yield before, "end" if token[2] == 0 else token


def test_pack_best_fit_worked_example():
    # Context 5: 7 is a full piece of 5 and a remainder of 2, which takes 3; 4 stands alone; 2 fits
    # beside the remainder; the last document of the shard ends in the token the shard begins with.
    rows = pack_best_fit(lengths_of([7, 4, 2]), 5)
    assert rows.row_offsets.tolist() == [0, 1, 2, 5]
    assert rows.start.tolist() == [0, 7, 5, 11, 0]
    assert rows.length.tolist() == [6, 5, 2, 2, 1]
    assert (rows.num_targets, rows.num_padding(5), rows.num_masked_starts) == (13, 2, 0)


def test_pack_best_fit_second_remainder_of_a_row_keeps_the_end_of_the_first():
    rows = pack_best_fit(lengths_of([11, 11]), 8)
    assert rows.row_offsets.tolist() == [0, 1, 2, 5]
    assert rows.start[2:].tolist() == [8, 19, 0]
    assert rows.length[2:].tolist() == [4, 3, 1]  # 3 and their end; 3; their end
    assert (rows.num_masked_starts, rows.num_targets) == (1, 22)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=1, max_size=4),
    st.integers(1, 17),
)
def test_pack_best_fit_any_documents_every_token_and_every_end_is_learned_once(
    shard_lengths, context_tokens
):
    segments = pack_best_fit(lengths_of(*shard_lengths), context_tokens)
    text = text_of(shard_lengths)
    expected = Counter()
    for tokens in text:
        for before, token in zip(tokens, [*tokens[1:], (0, 0, 0)], strict=True):
            expected[before, "end" if token[2] == 0 else token] += 1
    assert Counter(targets_of(segments, text)) == expected
    rows = list(rows_as_read(segments, text))
    assert all(2 <= len(tokens) <= context_tokens + 1 for tokens, _ in rows)
    assert all(any(is_target) for _, is_target in rows)
    num_targets = sum(sum(is_target) for _, is_target in rows)
    assert num_targets == segments.num_targets == sum(map(sum, shard_lengths))
    assert segments.num_padding(context_tokens) == len(rows) * context_tokens - num_targets


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(2, 17))
def test_pack_best_fit_any_documents_cuts_none_that_fits(lengths, context_tokens):
    segments = pack_best_fit(lengths_of(lengths), context_tokens)
    pieces = Counter()
    for tokens, _ in rows_as_read(segments, text_of([lengths])):
        # A lone first token is the end of the document before it.
        documents = Counter(document for _, document, _ in tokens)
        pieces.update(d for d, count in documents.items() if count > 1 or lengths[d] == 1)
    for document, length in enumerate(lengths):
        if 1 < length <= context_tokens:
            assert pieces[document] == 1


def test_pack_best_fit_long_tailed_lengths_pads_little():
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(np.log(400), 1.0, 20_000)).astype(np.int32) + 1  # like web pages
    segments = pack_best_fit(np.array_split(lengths, 3), 1024)
    assert segments.num_targets == lengths.sum()
    assert segments.num_padding(1024) < 0.005 * segments.num_rows * 1024


def test_pack_best_fit_documents_of_one_length_come_together_in_shuffled_order():
    segments = pack_best_fit(lengths_of([5] * 6), 10)
    assert segments.start.tolist() == [0, 5, 10, 15, 20, 25, 0]  # two a row, and the last end
    assert segments.row_offsets.tolist() == [0, 2, 4, 7]
