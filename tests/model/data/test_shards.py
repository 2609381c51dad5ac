import hashlib
import json

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.core.errors import ArtifactError, ConfigError, TamperedArtifactError, TokenizerError
from model.data.rows import Segments, open_rows, write_rows
from model.data.shards import (
    PAD_ID,
    ShardHeader,
    ShardSet,
    doc_identities,
    open_shard,
    shard_name,
    split_identities,
    write_shard,
)

HEADER = ShardHeader(
    tokenizer_fingerprint="f1", vocab_size=1000, split="train", seed=7, files=("a.parquet", "ü/b")
)
DOCUMENTS = [[0, 5, 6], [0], [0, 7, 8, 9, 10]]


def write(path, documents=DOCUMENTS, *, header=HEADER, loss_mask=None):
    write_shard(
        path,
        docs=np.arange(len(documents), dtype=np.int64) + 2**32,
        lengths=np.array([len(document) for document in documents], dtype=np.int64),
        tokens=np.array([token for document in documents for token in document], dtype=np.uint16),
        header=header,
        loss_mask=None if loss_mask is None else np.array(loss_mask, dtype=np.bool_),
    )
    return path


def segments(*rows, num_masked_starts=0):
    """Segments from rows written as lists of (shard, start, length)."""
    flat = [segment for row in rows for segment in row]
    columns = list(zip(*flat, strict=True)) if flat else [(), (), ()]
    return Segments(
        row_offsets=np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64),
        shard=np.array(columns[0], dtype=np.int32),
        start=np.array(columns[1], dtype=np.int64),
        length=np.array(columns[2], dtype=np.int32),
        num_masked_starts=num_masked_starts,
    )


def write_set(directory, *, loss_mask=None):
    """Two shards of 9 tokens each (0..8 and 100..108) and three rows of context 4."""
    for number, first in enumerate((0, 100)):
        write(directory / shard_name(number), [range(first, first + 9)], loss_mask=loss_mask)
    rows = segments([(0, 0, 5)], [(1, 4, 5)], [(0, 7, 2), (1, 0, 1)], num_masked_starts=1)
    write_rows(directory / "rows.arrow", rows, context_tokens=4)
    return directory


def write_manifest(directory):
    files = [
        {
            "path": path.name,
            "num_bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "role": "content",
        }
        for path in sorted(directory.glob("*.arrow"))
    ]
    manifest = {"content_digest": "d1", "files": files}
    (directory / "manifest.json").write_text(json.dumps(manifest))


def flip_byte(path, value):
    """Flip one bit of the token ``value``, which must be in the file once as two bytes."""
    data = bytearray(path.read_bytes())
    where = data.index(np.array([value, value + 1], dtype=np.uint16).tobytes())
    data[where] ^= 1
    path.write_bytes(data)


def test_write_shard_three_documents_reads_back_equal(tmp_path):
    shard = open_shard(write(tmp_path / "shard.arrow"))
    assert shard.header == HEADER
    assert (shard.num_docs, shard.num_tokens) == (3, 9)
    assert shard.docs.tolist() == [2**32, 2**32 + 1, 2**32 + 2]
    assert shard.offsets.tolist() == [0, 3, 4, 9]
    assert shard.tokens.tolist() == [0, 5, 6, 0, 0, 7, 8, 9, 10]
    assert shard.tokens.dtype == np.uint16
    assert shard.loss_mask is None


def test_write_shard_twice_gives_equal_bytes(tmp_path):
    first, second = write(tmp_path / "first"), write(tmp_path / "second")
    assert first.read_bytes() == second.read_bytes()


@settings(deadline=None, max_examples=30)
@given(documents=st.lists(st.lists(st.tuples(st.integers(0, 999), st.booleans()), max_size=20)))
def test_write_shard_any_documents_round_trip(tmp_path_factory, documents):
    ids = [[token for token, _ in document] for document in documents]
    mask = [is_target for document in documents for _, is_target in document]
    shard = open_shard(write(tmp_path_factory.mktemp("s") / "shard.arrow", ids, loss_mask=mask))
    pieces = np.split(shard.tokens, shard.offsets[1:-1])[: shard.num_docs]
    assert [piece.tolist() for piece in pieces] == ids
    assert shard.loss_mask.tolist() == mask
    start, stop = len(mask) // 3, len(mask) - len(mask) // 4
    assert shard.loss_mask_slice(start, stop).tolist() == mask[start:stop]


def test_open_shard_large_allocates_nothing(tmp_path):
    path = write(tmp_path / "shard.arrow", [[1] * 500_000], loss_mask=[True] * 500_000)
    before = pa.total_allocated_bytes()
    shard = open_shard(path)
    assert int(shard.tokens.sum()) == 500_000
    assert pa.total_allocated_bytes() == before
    for view in (shard.docs, shard.offsets, shard.tokens, shard.loss_mask_bits):
        assert not view.flags.owndata
        assert not view.flags.writeable


def test_write_shard_file_reads_in_datasets(tmp_path):
    path = write(tmp_path / "shard.arrow", loss_mask=[True] * 4 + [False] * 5)
    dataset = datasets.Dataset.from_file(str(path))
    assert dataset["tokens"][:] == DOCUMENTS
    assert dataset["doc"][:] == [2**32, 2**32 + 1, 2**32 + 2]
    assert dataset["loss_mask"][1] == [True]
    assert dataset.features["tokens"].feature.dtype == "uint16"


def test_write_shard_metadata_is_json_with_counts(tmp_path):
    path = write(tmp_path / "shard.arrow")
    metadata = pa.ipc.open_stream(path.read_bytes()).schema.metadata
    assert {key.decode(): json.loads(value) for key, value in metadata.items()} == {
        "format_version": 1,
        "tokenizer_fingerprint": "f1",
        "vocab_size": 1000,
        "split": "train",
        "seed": 7,
        "files": ["a.parquet", "ü/b"],
        "num_docs": 3,
        "num_tokens": 9,
    }


@pytest.mark.parametrize("documents", [DOCUMENTS, []])
def test_open_shard_cut_anywhere_raises_artifact_error(tmp_path, documents):
    data = write(tmp_path / "shard.arrow", documents).read_bytes()
    cut = tmp_path / "cut.arrow"
    for size in [*range(0, len(data), 16), *range(len(data) - 9, len(data))]:
        cut.write_bytes(data[:size])
        with pytest.raises(ArtifactError, match=r"truncated|cannot be read"):
            open_shard(cut)


def test_open_shard_missing_file_raises_with_place(tmp_path):
    with pytest.raises(ArtifactError, match=r"missing\n  expected: shard\.arrow"):
        open_shard(tmp_path / "shard.arrow")


def test_open_shard_row_table_raises_artifact_error(tmp_path):
    write_set(tmp_path)
    with pytest.raises(ArtifactError, match="format it should have"):
        open_shard(tmp_path / "rows.arrow")


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"doc": [1], "tokens": [[1]]}),
        pa.table({"text": ["a"]}),
    ],
)
def test_open_shard_foreign_stream_raises_artifact_error(tmp_path, table):
    path = tmp_path / "foreign.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ArtifactError, match=r"format it should have(.|\n)*format version None"):
        open_shard(path)


def test_open_shard_other_column_type_raises_naming_it(tmp_path):
    schema = pa.ipc.open_stream(write(tmp_path / "shard.arrow").read_bytes()).schema
    columns = [pa.array([1]), pa.array([[1]], pa.list_(pa.int32()))]
    batch = pa.record_batch(columns, names=["doc", "tokens"]).replace_schema_metadata(
        schema.metadata
    )
    path = tmp_path / "wide.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(ArtifactError, match="int32"):
        open_shard(path)


def test_write_shard_id_beyond_vocabulary_raises_with_ids(tmp_path):
    with pytest.raises(TokenizerError, match=r"id < 1000(.|\n)*ids from 0 to 1000"):
        write(tmp_path / "shard.arrow", [[0, 1000]])


@pytest.mark.parametrize("bad_id", [-1, 2**16])
def test_write_shard_id_beyond_uint16_raises_instead_of_wrapping(tmp_path, bad_id):
    with pytest.raises(TokenizerError, match="uint16"):
        write_shard(
            tmp_path / "shard.arrow",
            docs=np.array([0]),
            lengths=np.array([2]),
            tokens=np.array([5, bad_id]),
            header=HEADER.model_copy(update={"vocab_size": 2**16}),
        )


def test_write_shard_vocabulary_beyond_uint16_raises(tmp_path):
    with pytest.raises(TokenizerError, match="at most 65536"):
        write(tmp_path / "s", header=HEADER.model_copy(update={"vocab_size": 2**16 + 1}))


def test_write_shard_more_tokens_than_offsets_count_raises(tmp_path):
    many = np.broadcast_to(np.uint16(1), (2**31,))  # one element, repeated by a stride of zero
    with pytest.raises(ArtifactError, match=r"at most 2147483647(.|\n)*found: 2147483648"):
        write_shard(
            tmp_path / "shard.arrow",
            docs=np.array([0]),
            lengths=np.array([2**31]),
            tokens=many,
            header=HEADER,
        )


def test_doc_identities_split_again_returns_file_and_row():
    file_index, row = np.array([0, 3, 14]), np.array([0, 2**32 - 1, 12345])
    docs = doc_identities(file_index, row)
    assert docs.tolist() == [0, 4 * 2**32 - 1, 14 * 2**32 + 12345]
    assert [part.tolist() for part in split_identities(docs)] == [file_index.tolist(), row.tolist()]


def test_rows_of_segments_are_joined_and_padded(tmp_path):
    shards = ShardSet(write_set(tmp_path), context_tokens=4)
    block = shards.rows([2, 0, 1, 2])
    assert block.ids.tolist() == [
        [7, 8, 100, PAD_ID, PAD_ID],
        [0, 1, 2, 3, 4],
        [104, 105, 106, 107, 108],
        [7, 8, 100, PAD_ID, PAD_ID],
    ]
    assert block.mask.astype(int).tolist() == [
        [0, 1, 0, 0, 0],
        [0, 1, 1, 1, 1],
        [0, 1, 1, 1, 1],
        [0, 1, 0, 0, 0],
    ]
    assert (shards.num_rows, shards.num_targets) == (3, 9)
    assert (shards.vocab_size, shards.tokenizer_fingerprint) == (1000, "f1")
    assert shards.rows([]).ids.shape == (0, 5)


def test_rows_begin_documents_at_end_of_text_at_segments_and_at_padding(tmp_path):
    write(tmp_path / shard_name(0), [[0, 5], [0, 6, 7], [0, 8, 9]])
    rows = segments(
        [(0, 0, 5)], [(0, 4, 2), (0, 1, 1)], [(0, 6, 2), (0, 2, 3)], num_masked_starts=1
    )
    write_rows(tmp_path / "rows.arrow", rows, context_tokens=4)
    shards = ShardSet(tmp_path, context_tokens=4)
    block = shards.rows([0, 1, 2])
    assert block.ids.tolist() == [[0, 5, 0, 6, 7], [7, 0, 5, PAD_ID, PAD_ID], [8, 9, 0, 6, 7]]
    assert block.documents.tolist() == [[0, 0, 1, 1, 1], [0, 1, 2, 3, 3], [0, 0, 1, 1, 1]]
    # Targets: an end of text inside a row, and not 5, before which its document is missing.
    assert block.mask.astype(int).tolist() == [[0, 1, 1, 1, 1], [0, 1, 0, 0, 0], [0, 1, 1, 1, 1]]
    assert shards.num_targets == block.mask.sum()


def test_rows_with_loss_mask_asked_for_marks_only_those(tmp_path):
    mask = [True, True, False, True, False, True, False, False, True]
    shards = ShardSet(write_set(tmp_path, loss_mask=mask), context_tokens=4, loss_on="mask")
    assert shards.rows([0, 1, 2]).mask.astype(int).tolist() == [
        [0, 1, 0, 1, 0],
        [0, 1, 0, 0, 1],
        [0, 1, 0, 0, 0],
    ]


def test_rows_without_loss_mask_asked_for_raises(tmp_path):
    shards = ShardSet(write_set(tmp_path), context_tokens=4, loss_on="mask")
    with pytest.raises(ConfigError, match=r"no loss mask(.|\n)*train\.loss_on=all"):
        shards.rows([0])


@pytest.mark.parametrize("row", [-1, 3])
def test_rows_number_outside_raises_index_error(tmp_path, row):
    shards = ShardSet(write_set(tmp_path), context_tokens=4)
    with pytest.raises(IndexError, match=f"row {row} of 3"):
        shards.rows([row])


def test_write_rows_reads_back_with_counts(tmp_path):
    rows = segments([(0, 0, 5)], [(1, 4, 5)], [(0, 7, 2), (1, 0, 1)], num_masked_starts=1)
    write_rows(tmp_path / "rows.arrow", rows, context_tokens=4)
    found = open_rows(tmp_path / "rows.arrow", context_tokens=4)
    for name in ("row_offsets", "shard", "start", "length"):
        assert getattr(found, name).tolist() == getattr(rows, name).tolist()
    metadata = pa.ipc.open_stream((tmp_path / "rows.arrow").read_bytes()).schema.metadata
    assert metadata[b"num_rows"] == b"3"
    assert metadata[b"num_targets"] == b"9"
    assert metadata[b"num_padding"] == b"3"
    assert (found.num_targets, found.num_masked_starts) == (9, 1)
    assert metadata[b"context_tokens"] == b"4"


@pytest.mark.parametrize("length", [1, 6])
def test_write_rows_row_of_impossible_length_asserts(tmp_path, length):
    with pytest.raises(AssertionError, match="a row"):
        write_rows(tmp_path / "rows.arrow", segments([(0, 0, length)]), context_tokens=4)


def test_open_rows_shard_instead_raises_artifact_error(tmp_path):
    with pytest.raises(ArtifactError, match="format it should have"):
        open_rows(write(tmp_path / "shard.arrow"), context_tokens=4)


def test_shard_set_other_context_raises_with_both(tmp_path):
    with pytest.raises(ConfigError, match=r"context_tokens=8\n  found: context_tokens=4"):
        ShardSet(write_set(tmp_path), context_tokens=8)


def test_shard_set_intact_with_manifest_takes_its_digest(tmp_path):
    write_manifest(write_set(tmp_path))
    shards = ShardSet(tmp_path, context_tokens=4)
    assert shards.fingerprint == "d1"
    assert shards.rows([1]).ids[0, 0] == 104


def test_shard_set_without_manifest_tells_sets_apart(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = ShardSet(write_set(tmp_path / "a"), context_tokens=4).fingerprint
    write(write_set(tmp_path / "b") / shard_name(1), [range(100, 109), [0]])
    assert ShardSet(tmp_path / "a", context_tokens=4).fingerprint == first
    assert ShardSet(tmp_path / "b", context_tokens=4).fingerprint != first


def test_shard_set_flipped_byte_raises_at_first_read_of_that_shard(tmp_path):
    write_manifest(write_set(tmp_path))
    expected = hashlib.sha256((tmp_path / shard_name(1)).read_bytes()).hexdigest()
    flip_byte(tmp_path / shard_name(1), 104)
    found = hashlib.sha256((tmp_path / shard_name(1)).read_bytes()).hexdigest()
    shards = ShardSet(tmp_path, context_tokens=4)
    assert shards.rows([0]).ids[0].tolist() == [0, 1, 2, 3, 4]
    words = rf"shard-00001\.arrow(.|\n)*expected: sha256 {expected}\n  found: sha256 {found}"
    with pytest.raises(TamperedArtifactError, match=words):
        shards.rows([1])


def test_shard_set_flipped_byte_unverified_is_not_noticed(tmp_path):
    write_manifest(write_set(tmp_path))
    flip_byte(tmp_path / shard_name(1), 104)
    shards = ShardSet(tmp_path, context_tokens=4, verify=False)
    assert shards.rows([1]).ids[0].tolist() == [105, 105, 106, 107, 108]


def test_shard_set_changed_rows_raises_at_once(tmp_path):
    write_manifest(write_set(tmp_path))
    write_rows(tmp_path / "rows.arrow", segments([(0, 1, 5)]), context_tokens=4)
    with pytest.raises(TamperedArtifactError, match=r"rows\.arrow"):
        ShardSet(tmp_path, context_tokens=4)


def test_shard_set_file_the_manifest_lacks_raises(tmp_path):
    write_set(tmp_path)
    (tmp_path / "manifest.json").write_text('{"files": []}')
    with pytest.raises(TamperedArtifactError, match="not in the manifest"):
        ShardSet(tmp_path, context_tokens=4)


def test_shard_set_broken_manifest_raises_artifact_error(tmp_path):
    write_set(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="manifest cannot be read"):
        ShardSet(tmp_path, context_tokens=4)


@pytest.mark.parametrize("number", [0, 1])
def test_shard_set_missing_shard_raises_before_training(tmp_path, number):
    (write_set(tmp_path) / shard_name(number)).unlink()
    with pytest.raises(ArtifactError, match=r"missing(.|\n)*expected: 2 shards"):
        ShardSet(tmp_path, context_tokens=4)


def test_shard_set_second_tokenizer_raises_with_both(tmp_path):
    other = HEADER.model_copy(update={"tokenizer_fingerprint": "f2"})
    write(write_set(tmp_path) / shard_name(1), [range(100, 109)], header=other)
    shards = ShardSet(tmp_path, context_tokens=4)
    with pytest.raises(ArtifactError, match=r"expected: f1\n  found: f2"):
        shards.rows([1])
