import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from model.core.errors import ArtifactError, SourceRecordError, TokenizerError
from model.data.shards import open_shard, split_identities
from model.text.tokenizer import Tokenizer
from tasks.tokens import encode
from tasks.tokens.encode import SLOW_ENCODER, EncodeCounts, encode_file
from tasks.tokens.fast_encoder import NAME as FAST_ENCODER
from tasks.tokens.fast_encoder import PLACEHOLDER_SPECIAL, FastEncoder
from tests.support.small_tokenizer import HOSTILE_TEXTS, train_small_tokenizer


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return train_small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def write_part(path, texts, *, files=None, rows=None):
    table = pa.table(
        {
            "text": pa.array(texts, pa.string()),
            "file": pa.array(files or ["a.parquet"] * len(texts), pa.string()),
            "row": pa.array(rows or range(len(texts)), pa.int64()),
            "id": pa.array(["x"] * len(texts), pa.string()),
        }
    )
    pq.write_table(table, path, row_group_size=3)
    return path


@pytest.fixture
def run(directory, tmp_path):
    """Encode texts and return the counts and the opened shard."""

    def encode_texts(texts, *, file="a.parquet", **columns):
        part = write_part(tmp_path / "part.parquet", texts, **columns)
        destination = tmp_path / "out"
        counts = encode_file(
            part, tokenizer_directory=directory, file=file, split="train", destination=destination
        )
        assert [path.name for path in destination.iterdir()] == ["tokens.arrow"]
        return counts, open_shard(destination / "tokens.arrow")

    return encode_texts


def documents(shard):
    return [piece.tolist() for piece in np.split(shard.tokens, shard.offsets[1:-1])]


def test_encode_file_two_texts_starts_each_with_end_of_text(run, directory):
    tokenizer = Tokenizer.load(directory)
    counts, shard = run(["cat", ""], rows=[4, 9])
    cat = tokenizer.encode("cat")
    assert documents(shard) == [[0, *cat], [0]]
    assert shard.docs.tolist() == [4, 9]
    assert counts == EncodeCounts(
        num_docs=2, num_tokens=len(cat) + 2, num_bytes=3, encoder=FAST_ENCODER, num_compared=1
    )
    assert shard.header.model_dump() == {
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "vocab_size": 400,
        "split": "train",
        "seed": 0,
        "files": ("a.parquet",),
    }


def test_encode_file_hostile_texts_equals_transformers(run, directory):
    peer = AutoTokenizer.from_pretrained(directory)
    counts, shard = run(HOSTILE_TEXTS)
    expected = [[0, *peer(text, split_special_tokens=True).input_ids] for text in HOSTILE_TEXTS]
    assert documents(shard) == expected
    assert counts.num_bytes == sum(len(text.encode()) for text in HOSTILE_TEXTS)


LONG_TEXTS = ("漢字" * 20_000, " " * 100_000, "^" * 100_000, "ab1" * 30_000, "\u00a0" * 50_000)


@pytest.mark.parametrize("threads", [1, 2])
def test_fast_encoder_gives_the_ids_of_the_tokenizer(directory, threads):
    tokenizer = Tokenizer.load(directory)
    texts = [*HOSTILE_TEXTS, *LONG_TEXTS, *(f"a{text}b {text}" for text in PLACEHOLDER_SPECIAL)]
    found = FastEncoder(tokenizer, threads=threads).encode_batch(texts)
    assert [ids.tolist() for ids in found] == tokenizer.encode_batch(texts)


@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=80))
def test_fast_encoder_any_text_gives_the_ids_of_the_tokenizer(directory, text):
    tokenizer = Tokenizer.load(directory)
    (found,) = FastEncoder(tokenizer, threads=1).encode_batch([text])
    assert found.tolist() == tokenizer.encode(text)


def test_encode_file_other_ids_of_the_fast_encoder_are_noticed_and_not_used(
    run, directory, monkeypatch, caplog
):
    encode_rightly = FastEncoder.encode_batch

    def encode_wrongly(self, texts):
        return [ids[::-1] for ids in encode_rightly(self, texts)]

    monkeypatch.setattr(FastEncoder, "encode_batch", encode_wrongly)
    texts = [f"The cat sat on {number} mats." for number in range(300)]
    counts, shard = run(texts)
    tokenizer = Tokenizer.load(directory)
    assert documents(shard) == [[0, *tokenizer.encode(text)] for text in texts]
    assert (counts.encoder, counts.num_compared) == (SLOW_ENCODER, 0)
    assert "other ids for document 0" in caplog.text


def test_encode_file_every_hundredth_document_is_compared(run, monkeypatch):
    compared = []
    encode_batch = Tokenizer.encode_batch

    def note(self, texts):
        compared.extend(texts)
        return encode_batch(self, texts)

    monkeypatch.setattr(Tokenizer, "encode_batch", note)
    counts, _ = run([f"cat {number}" for number in range(701)])
    assert compared == [f"cat {number}" for number in range(0, 701, 100)]
    assert (counts.encoder, counts.num_compared) == (FAST_ENCODER, 8)


def test_encode_file_tokens_decode_to_the_texts(run, directory):
    tokenizer = Tokenizer.load(directory)
    _, shard = run(HOSTILE_TEXTS)
    assert [tokenizer.decode(ids[1:]) for ids in documents(shard)] == list(HOSTILE_TEXTS)


@pytest.mark.parametrize(("num_docs", "num_chars"), [(1, 10), (2, 1), (7, 2000)])
def test_encode_file_other_batches_gives_the_same_bytes(run, monkeypatch, num_docs, num_chars):
    _, whole = run(HOSTILE_TEXTS)
    expected = whole.path.read_bytes()
    monkeypatch.setattr(encode, "BATCH_DOCS", num_docs)
    monkeypatch.setattr(encode, "BATCH_CHARS", num_chars)
    _, shard = run(HOSTILE_TEXTS)
    assert shard.path.read_bytes() == expected


def test_encode_file_long_texts_are_held_in_memory_a_few_at_a_time(run, monkeypatch):
    sizes = []
    encode_batch = FastEncoder.encode_batch

    def recorded(self, texts):
        sizes.append(sum(map(len, texts)))
        return encode_batch(self, texts)

    monkeypatch.setattr(FastEncoder, "encode_batch", recorded)
    monkeypatch.setattr(encode, "BATCH_CHARS", 100)
    run(["a" * 60, "b" * 30, "c" * 300, "d" * 10])
    assert sizes == [90, 300, 10]


def test_encode_file_no_rows_writes_an_empty_shard(run):
    counts, shard = run([])
    assert counts == EncodeCounts(
        num_docs=0, num_tokens=0, num_bytes=0, encoder=FAST_ENCODER, num_compared=0
    )
    assert (shard.num_docs, shard.num_tokens) == (0, 0)
    assert shard.header.files == ("a.parquet",)


def test_encode_file_rows_of_several_files_keeps_them_apart(run):
    files = ["b", "a", "b", "c"]
    counts, shard = run(["x", "y", "z", "w"], file="", files=files, rows=[5, 5, 6, 0])
    assert shard.header.files == ("a", "b", "c")
    file_index, row = split_identities(shard.docs)
    assert [shard.header.files[index] for index in file_index] == files
    assert row.tolist() == [5, 5, 6, 0]
    assert counts.num_docs == 4


def test_encode_file_row_of_another_file_raises_naming_both(run):
    with pytest.raises(ArtifactError, match=r"expected: a\.parquet\n  found: b\.parquet"):
        run(["x", "y"], files=["a.parquet", "b.parquet"])


def test_encode_file_null_text_raises_with_its_row(run):
    with pytest.raises(SourceRecordError, match=r"NULL(.|\n)*part\.parquet, row 17"):
        run(["x", None], rows=[16, 17])


def test_encode_file_missing_table_raises_artifact_error(directory, tmp_path):
    with pytest.raises(ArtifactError, match=r"cannot be read(.|\n)*where: .*nothing\.parquet"):
        encode_file(
            tmp_path / "nothing.parquet",
            tokenizer_directory=directory,
            file="a",
            split="train",
            destination=tmp_path,
        )


def test_encode_file_table_without_rows_column_raises_naming_columns(directory, tmp_path):
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "part.parquet")
    with pytest.raises(ArtifactError, match="found: columns text"):
        encode_file(
            tmp_path / "part.parquet",
            tokenizer_directory=directory,
            file="a",
            split="train",
            destination=tmp_path,
        )


def test_encode_file_without_tokenizer_raises_tokenizer_error(tmp_path):
    part = write_part(tmp_path / "part.parquet", ["x"])
    with pytest.raises(TokenizerError, match="cannot be read"):
        encode_file(
            part, tokenizer_directory=tmp_path, file="a", split="train", destination=tmp_path
        )
