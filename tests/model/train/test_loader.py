"""Batches: order, interleaving, spreading over processes, resuming."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch

from model.core.errors import ArtifactError, CheckpointError, TrainingError
from model.runtime.distributed import DistributedContext
from model.text.tokenizer import Tokenizer
from model.train.loader import BatchReader, LoaderState, Part, interleave, permutation
from tests.support.small_tokenizer import train_small_tokenizer
from tests.support.small_training import write_small_shards

LONE = DistributedContext()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Part]:
    root = tmp_path_factory.mktemp("shards")
    tokenizer = Tokenizer.load(train_small_tokenizer(root / "tokenizer"))
    sizes = {"first": (10, 3.0), "second": (7, 1.0)}
    return [
        Part(write_small_shards(root / name, tokenizer, num_rows=num_rows, seed=num_rows), weight)
        for name, (num_rows, weight) in sizes.items()
    ]


def reader_of(
    parts: list[Part],
    *,
    rows_per_step: int = 4,
    seed: int = 1,
    distributed: DistributedContext = LONE,
):
    return BatchReader(parts, seed=seed, rows_per_step=rows_per_step, distributed=distributed)


def read_rows(reader: BatchReader, state: LoaderState, *, num_batches: int) -> list[list[int]]:
    rows: list[list[int]] = []
    for _ in range(num_batches):
        batch, state = reader.next_rows(state)
        rows += batch.tolist()
    return rows


def test_permutation_of_ten_rows_never_changes():
    # Frozen: a checkpoint of an older numpy or project must continue with the same rows.
    assert permutation(10, seed=1, part=0, epoch=0).tolist() == [5, 3, 7, 8, 2, 4, 1, 0, 6, 9]


def test_permutation_differs_by_seed_part_and_epoch():
    keys = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)]
    orders = [permutation(50, seed=s, part=p, epoch=e).tolist() for s, p, e in keys]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == len(keys)


def test_interleave_of_two_to_one_spreads_evenly():
    assert interleave([2.0, 1.0], taken=[0, 0], num_groups=6).tolist() == [0, 1, 0, 0, 1, 0]


def test_interleave_continued_equals_interleave_at_once_and_exact_arithmetic():
    weights = [5.0, 3.0, 1.5]
    at_once = interleave(weights, taken=[0, 0, 0], num_groups=200)
    taken = [int((at_once[:77] == part).sum()) for part in range(3)]
    continued = interleave(weights, taken=taken, num_groups=123)
    assert continued.tolist() == at_once[77:].tolist()
    shares = [Fraction(weight) / Fraction(sum(weights)) for weight in weights]
    for num_rows in (1, 10, 95, 200):
        for part, share in enumerate(shares):
            assert abs((at_once[:num_rows] == part).sum() - share * num_rows) <= 1


def test_next_rows_crosses_epochs_without_a_gap(parts: list[Part]):
    reader = reader_of(parts[:1])  # 10 rows, 4 a batch: the third batch crosses
    rows = [row for _, row in read_rows(reader, reader.start(), num_batches=5)]
    expected = [permutation(10, seed=1, part=0, epoch=epoch).tolist() for epoch in (0, 1)]
    assert rows == expected[0] + expected[1]


def test_next_rows_of_a_mixture_follows_each_parts_own_order(parts: list[Part]):
    reader = reader_of(parts)
    rows = read_rows(reader, reader.start(), num_batches=10)
    for index, part in enumerate(parts):
        own = [row for owner, row in rows if owner == index]
        orders = [
            permutation(part.shards.num_rows, seed=1, part=index, epoch=epoch) for epoch in range(4)
        ]
        assert own == np.concatenate(orders)[: len(own)].tolist()
        assert len(own) == 40 * part.weight / 4


def test_read_spreads_a_global_batch_over_processes(parts: list[Part]):
    alone = reader_of(parts)
    whole = alone.read(alone.start())
    assert whole.ids.shape == (4, 17)
    for rank in range(2):
        share = reader_of(parts, distributed=DistributedContext(rank=rank, size=2)).read(
            alone.start()
        )
        assert share.ids.tolist() == whole.ids[rank::2].tolist()
        assert share.mask.tolist() == whole.mask[rank::2].tolist()
        assert share.rows.tolist() == whole.rows.tolist()
        assert share.state == whole.state


def test_read_returns_the_shards_tokens_and_counts_targets(parts: list[Part]):
    reader = reader_of(parts)
    batch = reader.read(reader.start())
    for index, (part, row) in enumerate(batch.rows.tolist()):
        block = parts[part].shards.rows([row])
        assert batch.ids[index].tolist() == block.ids[0].tolist()
    assert batch.num_targets == 4 * 16


def test_stream_is_the_same_however_far_ahead_it_reads(parts: list[Part]):
    reader = reader_of(parts)
    streams = [reader.stream(reader.start(), ahead=ahead) for ahead in (0, 1, 5)]
    for _ in range(6):
        first, *others = [next(stream) for stream in streams]
        for other in others:
            assert torch.equal(other.ids, first.ids)
            assert other.state == first.state
    for stream in streams:
        stream.close()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_stream_over_processes_together_reads_the_same_rows(parts: list[Part], size: int):
    state = reader_of(parts).start()
    streams = [
        reader_of(parts, distributed=DistributedContext(rank=rank, size=size)).stream(
            state, ahead=rank
        )
        for rank in range(size)
    ]
    alone = reader_of(parts)
    for _ in range(5):
        whole, batches = alone.read(state), [next(stream) for stream in streams]
        merged = torch.empty_like(whole.ids)
        for rank, batch in enumerate(batches):
            merged[rank::size] = batch.ids
        assert torch.equal(merged, whole.ids)
        assert sum(batch.num_targets for batch in batches) == whole.num_targets
        state = whole.state
        assert {batch.state for batch in batches} == {state}
    for stream in streams:
        stream.close()


def test_stream_hands_on_what_reading_raises(parts: list[Part], monkeypatch: pytest.MonkeyPatch):
    reader = reader_of(parts)
    stream = reader.stream(reader.start(), ahead=1)

    def broken(_rows: object) -> None:
        raise OSError("the disk is gone")

    next(stream)
    monkeypatch.setattr(parts[0].shards, "rows", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        list(itertools.islice(stream, 3))


def test_read_for_document_attention_numbers_documents_by_row(parts: list[Part]):
    reader = BatchReader(parts, seed=1, rows_per_step=4, distributed=LONE, attention="document")
    batch = reader.read(reader.start())
    assert batch.documents is not None
    begins = batch.ids == 0  # <|endoftext|>
    begins[:, 0] = True
    assert torch.equal(batch.documents, begins.cumsum(1) - 1)
    assert batch.documents.max() >= 1
    assert reader_of(parts).read(reader.start()).documents is None


def test_stream_resumed_from_saved_state_equals_stream_gone_on(parts: list[Part]):
    reader = reader_of(parts)
    stream = reader.stream(reader.start())
    batches = [next(stream) for _ in range(6)]
    stream.close()
    saved = LoaderState.model_validate_json(batches[2].state.model_dump_json())
    resumed = reader_of(parts).stream(saved)
    for expected in batches[3:]:
        batch = next(resumed)
        assert batch.ids.tolist() == expected.ids.tolist()
        assert batch.state == expected.state
    resumed.close()


@pytest.mark.parametrize("change", ["seed", "weight", "shards"])
def test_stream_from_state_of_another_order_is_refused_naming_both(parts: list[Part], change: str):
    others = {
        "seed": reader_of(parts, seed=2),
        "weight": reader_of([Part(parts[0].shards, 2.0), parts[1]]),
        "shards": reader_of([Part(parts[1].shards, 3.0), Part(parts[0].shards, 1.0)]),
    }
    state = others[change].start()
    reader = reader_of(parts)
    with pytest.raises(CheckpointError, match="another order of training rows") as error:
        next(reader.stream(state))
    assert state.fingerprint in str(error.value)
    assert reader.fingerprint in str(error.value)


def test_reader_of_fewer_rows_than_a_batch_is_refused_with_numbers(parts: list[Part]):
    with pytest.raises(TrainingError, match="fewer tokens than one batch") as error:
        reader_of(parts, rows_per_step=18)
    assert "at least 18 rows of 16 tokens (train.batch_tokens_per_step=288)" in str(error.value)
    assert "found: 17 rows" in str(error.value)


def paired(
    parts: list[Part], *, distributed: DistributedContext = LONE, rows_per_step: int = 8
) -> BatchReader:
    """A reader of pairs: ten and six rows are five and three of them."""
    return BatchReader(
        parts, seed=1, rows_per_step=rows_per_step, distributed=distributed, rows_per_group=2
    )


@pytest.fixture(scope="module")
def even_parts(tmp_path_factory: pytest.TempPathFactory) -> list[Part]:
    root = tmp_path_factory.mktemp("pairs")
    tokenizer = Tokenizer.load(train_small_tokenizer(root / "tokenizer"))
    return [
        Part(write_small_shards(root / name, tokenizer, num_rows=num_rows), weight)
        for name, num_rows, weight in (("first", 10, 3.0), ("second", 6, 1.0))
    ]


def test_next_rows_of_pairs_permutes_pairs_and_keeps_each_together(even_parts: list[Part]):
    reader = paired(even_parts[:1])
    rows = [row for _, row in read_rows(reader, reader.start(), num_batches=5)]
    order = np.concatenate([permutation(5, seed=1, part=0, epoch=epoch) for epoch in range(4)])
    assert rows == [row for pair in order.tolist() for row in (2 * pair, 2 * pair + 1)]


def test_next_rows_of_a_mixture_of_pairs_shares_by_weight_and_counts_rows(even_parts: list[Part]):
    reader = paired(even_parts)
    state = reader.start()
    rows = read_rows(reader, state, num_batches=6)
    assert [owner for owner, _ in rows[::2]] == [owner for owner, _ in rows[1::2]]
    assert [later - row for (_, row), (_, later) in zip(rows[::2], rows[1::2], strict=True)] == [
        1
    ] * 24
    _, after = reader.next_rows(state)
    assert (after.num_rows, after.part_rows) == (8, (6, 2))


@pytest.mark.parametrize("size", [2, 4])
def test_read_of_pairs_splits_none_over_processes(even_parts: list[Part], size: int):
    alone = paired(even_parts)
    whole = alone.read(alone.start())
    pairs = whole.ids.view(4, 2, 17)
    for rank in range(size):
        share = paired(even_parts, distributed=DistributedContext(rank=rank, size=size)).read(
            alone.start()
        )
        assert share.ids.tolist() == pairs[rank::size].flatten(0, 1).tolist()
        assert share.state == whole.state


def test_state_of_single_rows_is_refused_by_a_reader_of_pairs(even_parts: list[Part]):
    state = reader_of(even_parts).start()
    with pytest.raises(CheckpointError, match="another order of training rows"):
        next(paired(even_parts).stream(state))


def test_reader_of_pairs_of_an_odd_number_of_rows_is_refused(parts: list[Part]):
    with pytest.raises(ArtifactError, match="row group of the shards is incomplete") as error:
        paired(parts[1:], rows_per_step=2)
    assert "found: 7 rows" in str(error.value)
    assert "expected: a multiple of 2 rows" in str(error.value)
