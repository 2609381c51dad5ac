from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.core.errors import ArtifactError, CorpusError
from model.data.shards import ShardHeader, ShardSet, doc_identities, open_shard, write_shard
from tasks.tokens.training_shards import write_shards

SETTINGS = {
    "split": "train",
    "seed": 1,
    "shard_tokens": 40,
    "context_tokens": 8,
    "packing": "concat",
    "shuffle": True,
}


def write_tokens(directory, name, documents, *, fingerprint="f1", loss_mask=None):
    """Write one token file: documents as {row: ids}."""
    path = directory / f"{name.replace('/', '_')}.tokens.arrow"
    tokens = np.array([token for ids in documents.values() for token in ids], dtype=np.uint16)
    write_shard(
        path,
        docs=np.array(list(documents), dtype=np.int64),
        lengths=np.array([len(ids) for ids in documents.values()], dtype=np.int64),
        tokens=tokens,
        header=ShardHeader(
            tokenizer_fingerprint=fingerprint, vocab_size=500, split="train", seed=0, files=(name,)
        ),
        loss_mask=loss_mask,
    )
    return path


def write_corpus(directory, corpus):
    return [write_tokens(directory, name, documents) for name, documents in corpus.items()]


def write_removed(directory, removed, name="removed.parquet"):
    table = pa.table(
        {
            "file": pa.array([file for file, _ in removed], pa.string()),
            "row": pa.array([row for _, row in removed], pa.int64()),
            "kind": pa.array(["exact"] * len(removed), pa.string()),
        }
    )
    pq.write_table(table, directory / name)
    return directory / name


def random_corpus(*, num_files=3, num_docs=40, seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"data/{number}.parquet": {
            row * 3: [0, *rng.integers(1, 500, rng.integers(0, 12)).tolist()]
            for row in range(num_docs)
        }
        for number in range(num_files)
    }


def read_documents(directory):
    """Every document of every shard in order, as (file, row, ids)."""
    found = []
    for path in sorted(directory.glob("shard-*.arrow")):
        shard = open_shard(path)
        pieces = np.split(shard.tokens, shard.offsets[1:-1])
        for doc, piece in zip(shard.docs.tolist(), pieces, strict=True):
            found.append((shard.header.files[doc >> 32], doc % 2**32, tuple(piece.tolist())))
    return found


def flat_documents(corpus):
    return [
        (file, row, tuple(ids))
        for file, documents in corpus.items()
        for row, ids in documents.items()
    ]


def digest(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_write_shards_in_order_packs_one_stream(tmp_path):
    corpus = {"b": {0: [0, 1, 2], 5: [0, 3]}, "a": {7: [0, 4, 5, 6]}}
    out = tmp_path / "out"
    counts = write_shards(
        write_corpus(tmp_path, corpus),
        (),
        split="validation",
        seed=3,
        shard_tokens=100,
        context_tokens=4,
        packing="concat",
        shuffle=False,
        destination=out,
    )
    assert read_documents(out) == [("a", 7, (0, 4, 5, 6)), ("b", 0, (0, 1, 2)), ("b", 5, (0, 3))]
    shards = ShardSet(out, context_tokens=4)
    assert shards.rows([0, 1]).ids.tolist() == [[0, 4, 5, 6, 0], [0, 1, 2, 0, 3]]
    assert counts.files == ("a", "b")
    assert (counts.num_shards, counts.num_docs, counts.num_removed) == (1, 3, 0)
    assert (counts.num_tokens, counts.num_rows, counts.num_targets, counts.num_padding) == (
        9,
        2,
        8,
        0,
    )
    header = open_shard(out / "shard-00000.arrow").header
    assert (header.split, header.seed, header.files) == ("validation", 3, ("a", "b"))


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_write_shards_any_corpus_holds_each_kept_document_once(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("corpus")
    document = st.lists(st.integers(1, 499), max_size=25).map(lambda ids: [0, *ids])
    documents = st.dictionaries(st.integers(0, 2**32 - 1), document, max_size=12)
    corpus = data.draw(st.dictionaries(st.sampled_from("abcd"), documents, min_size=1))
    everything = flat_documents(corpus)
    removed = data.draw(st.sets(st.sampled_from([d[:2] for d in everything]))) if everything else ()
    kept = [found for found in everything if found[:2] not in removed]
    num_tokens = sum(len(ids) for *_, ids in kept)
    sizes = {
        "shard_tokens": data.draw(st.integers(1, 60)),
        "seed": data.draw(st.integers(0, 2**32 - 1)),
        "shuffle": data.draw(st.booleans()),
        "packing": data.draw(st.sampled_from(["best_fit", "concat"])),
    }
    paths, table = write_corpus(directory, corpus), write_removed(directory, sorted(removed))
    out = directory / "out"
    if num_tokens < 9:
        with pytest.raises(CorpusError, match=f"found: {num_tokens} tokens in {len(kept)} doc"):
            write_shards(paths, [table], **(SETTINGS | sizes), destination=out)
        return
    counts = write_shards(paths, [table], **(SETTINGS | sizes), destination=out)
    assert Counter(read_documents(out)) == Counter(kept)
    assert (counts.num_docs, counts.num_removed) == (len(kept), len(removed))
    assert counts.num_tokens == num_tokens
    num_untargets = counts.num_shards if sizes["packing"] == "concat" else 0
    assert counts.num_targets == num_tokens - num_untargets
    shards = ShardSet(out, context_tokens=8)
    block = shards.rows(range(shards.num_rows))
    assert block.mask.any(axis=1).all()
    assert block.mask.sum() == shards.num_targets == counts.num_targets
    assert counts.num_padding == 8 * counts.num_rows - counts.num_targets


def test_write_shards_best_fit_makes_each_token_and_document_end_a_target_once(tmp_path):
    corpus = random_corpus(num_docs=60)
    paths, out = write_corpus(tmp_path, corpus), tmp_path / "out"
    counts = write_shards(paths, (), **(SETTINGS | {"packing": "best_fit"}), destination=out)
    assert counts.num_shards > 10
    shards = ShardSet(out, context_tokens=8)
    block = shards.rows(range(shards.num_rows))
    targets = Counter(
        (int(before), int(token))
        for ids, mask in zip(block.ids, block.mask, strict=True)
        for before, token in zip(ids[:-1][mask[1:]], ids[1:][mask[1:]], strict=True)
    )
    expected = Counter(
        pair
        for _, _, ids in flat_documents(corpus)
        for pair in zip(ids, [*ids[1:], 0], strict=True)
    )
    assert targets == expected


def test_write_shards_rows_give_each_token_but_the_first_as_target_once(tmp_path):
    out = tmp_path / "out"
    counts = write_shards(write_corpus(tmp_path, random_corpus()), (), **SETTINGS, destination=out)
    assert counts.num_shards > 10
    shards = ShardSet(out, context_tokens=8)
    block = shards.rows(range(shards.num_rows))
    targets = block.ids[block.mask].tolist()
    expected = [
        token
        for path in sorted(out.glob("shard-*"))
        for token in open_shard(path).tokens[1:].tolist()
    ]
    assert targets == expected
    assert len(targets) == counts.num_targets == shards.num_targets
    assert counts.num_rows * 8 - counts.num_targets == counts.num_padding


@pytest.mark.parametrize("packing", ["best_fit", "concat"])
def test_write_shards_files_in_any_order_gives_equal_bytes(tmp_path, packing):
    paths = write_corpus(tmp_path, random_corpus())
    removed = [("data/1.parquet", 9), ("data/0.parquet", 0), ("data/1.parquet", 9)]
    table = write_removed(tmp_path, removed)
    for name, order in (("a", paths), ("b", paths[::-1])):
        settings = SETTINGS | {"packing": packing}
        counts = write_shards(order, [table], **settings, destination=tmp_path / name)
        assert counts.num_removed == 2
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_write_shards_other_seed_gives_another_order_of_the_same(tmp_path):
    paths = write_corpus(tmp_path, random_corpus())
    write_shards(paths, (), **SETTINGS, destination=tmp_path / "a")
    write_shards(paths, (), **(SETTINGS | {"seed": 2}), destination=tmp_path / "b")
    first, second = read_documents(tmp_path / "a"), read_documents(tmp_path / "b")
    assert first != second
    assert sorted(first) == sorted(second)


def test_write_shards_one_document_more_leaves_the_order_of_the_others(tmp_path):
    corpus = random_corpus()
    write_shards(write_corpus(tmp_path, corpus), (), **SETTINGS, destination=tmp_path / "a")
    corpus["added.parquet"] = {0: [0, 1, 2]}
    write_shards(write_corpus(tmp_path, corpus), (), **SETTINGS, destination=tmp_path / "b")
    others = [found for found in read_documents(tmp_path / "b") if found[0] != "added.parquet"]
    assert others == read_documents(tmp_path / "a")


def test_write_shards_shuffled_mixes_files_in_every_shard(tmp_path):
    corpus = random_corpus(num_files=2, num_docs=400)
    write_shards(
        write_corpus(tmp_path, corpus),
        (),
        **(SETTINGS | {"shard_tokens": 1000}),
        destination=tmp_path / "out",
    )
    shards = [open_shard(path) for path in sorted((tmp_path / "out").glob("shard-*"))]
    sizes = [shard.num_tokens for shard in shards]
    assert max(sizes) <= 1000 + 12
    assert max(sizes) - min(sizes) <= 2 * 12  # a longest document at each end
    for shard in shards:
        assert 0.3 < (shard.docs >> 32).mean() < 0.7
        assert abs(np.corrcoef(np.arange(shard.num_docs), shard.docs % 2**32)[0, 1]) < 0.3


def test_write_shards_document_larger_than_a_shard_stays_whole(tmp_path):
    corpus = {"a": {0: [0, 1], 1: [0] * 200, 2: [0, 2]}}
    counts = write_shards(
        write_corpus(tmp_path, corpus), (), **SETTINGS, destination=tmp_path / "out"
    )
    assert sorted(read_documents(tmp_path / "out")) == sorted(flat_documents(corpus))
    assert counts.num_shards <= 3
    assert all(open_shard(path).num_docs for path in (tmp_path / "out").glob("shard-*"))


def test_write_shards_validation_of_several_files_keeps_file_and_row(tmp_path):
    path = tmp_path / "tokens.arrow"
    docs = doc_identities(np.array([1, 0, 1]), np.array([4, 8, 2]))
    write_shard(
        path,
        docs=docs,
        lengths=np.array([3, 3, 3]),
        tokens=np.array([0, 1, 1, 0, 2, 2, 0, 3, 3], dtype=np.uint16),
        header=ShardHeader(
            tokenizer_fingerprint="f", vocab_size=9, split="validation", seed=0, files=("a", "b")
        ),
    )
    write_shards([path], (), **(SETTINGS | {"shuffle": False}), destination=tmp_path / "out")
    assert read_documents(tmp_path / "out") == [
        ("a", 8, (0, 2, 2)),
        ("b", 2, (0, 3, 3)),
        ("b", 4, (0, 1, 1)),
    ]


def test_write_shards_too_few_tokens_raises_with_numbers(tmp_path):
    paths = write_corpus(tmp_path, {"a": {0: [0] * 5, 1: [0] * 3}})
    words = r"at least 9 tokens(.|\n)*found: 8 tokens in 2 documents"
    with pytest.raises(CorpusError, match=words):
        write_shards(paths, (), **SETTINGS, destination=tmp_path / "out")


def test_write_shards_all_removed_raises_corpus_error(tmp_path):
    paths = write_corpus(tmp_path, {"a": {0: [0] * 50}})
    removed = write_removed(tmp_path, [("a", 0)])
    with pytest.raises(CorpusError, match="0 tokens in 0 documents"):
        write_shards(paths, [removed], **SETTINGS, destination=tmp_path / "out")


def test_write_shards_two_tokenizers_raises_with_both(tmp_path):
    paths = [
        write_tokens(tmp_path, "a", {0: [0] * 20}),
        write_tokens(tmp_path, "b", {0: [0] * 20}, fingerprint="f2"),
    ]
    with pytest.raises(ArtifactError, match=r"different tokenizers\n  expected: f1 (.|\n)*f2"):
        write_shards(paths, (), **SETTINGS, destination=tmp_path / "out")


@pytest.mark.parametrize(
    ("removed", "words"),
    [
        ([("a", 1)], r"1 removed documents\n  found: 0 of them among 1"),
        ([("z", 0)], r"file without tokens(.|\n)*found: z"),
        ([(None, 0)], r"file without tokens(.|\n)*found: NULL"),
    ],
)
def test_write_shards_foreign_removals_raises(tmp_path, removed, words):
    paths = write_corpus(tmp_path, {"a": {0: [0] * 20}})
    table = write_removed(tmp_path, removed)
    with pytest.raises(ArtifactError, match=words):
        write_shards(paths, [table], **SETTINGS, destination=tmp_path / "out")


def test_write_shards_several_removals_leave_out_what_any_of_them_names(tmp_path):
    corpus = random_corpus(num_files=1)
    (path,) = write_corpus(tmp_path, corpus)
    name = "data/0.parquet"
    tables = [
        write_removed(tmp_path, [(name, 0), (name, 3)], "copies.parquet"),
        write_removed(tmp_path, [(name, 3), (name, 9)], "quality.parquet"),
        write_removed(tmp_path, [], "none.parquet"),
    ]
    counts = write_shards([path], tables, **SETTINGS, destination=tmp_path / "out")
    assert (counts.num_docs, counts.num_removed) == (37, 3)
    left = {row for _, row, _ in read_documents(tmp_path / "out")}
    assert left == set(range(0, 120, 3)) - {0, 3, 9}


def test_write_shards_missing_removals_raises_artifact_error(tmp_path):
    paths = write_corpus(tmp_path, {"a": {0: [0] * 20}})
    with pytest.raises(ArtifactError, match="removals cannot be read"):
        write_shards(paths, [tmp_path / "no.parquet"], **SETTINGS, destination=tmp_path / "out")


def test_write_shards_file_given_twice_raises_naming_it(tmp_path):
    path = write_tokens(tmp_path, "a", {0: [0] * 20})
    with pytest.raises(ArtifactError, match=r"twice(.|\n)*found: a"):
        write_shards([path, path], (), **SETTINGS, destination=tmp_path / "out")


def test_write_shards_document_twice_in_a_file_raises(tmp_path):
    path = tmp_path / "tokens.arrow"
    write_shard(
        path,
        docs=np.array([1, 1]),
        lengths=np.array([10, 10]),
        tokens=np.zeros(20, dtype=np.uint16),
        header=ShardHeader(
            tokenizer_fingerprint="f", vocab_size=9, split="train", seed=0, files=("a",)
        ),
    )
    with pytest.raises(ArtifactError, match="a document is there twice"):
        write_shards([path], (), **SETTINGS, destination=tmp_path / "out")


def test_write_shards_with_loss_mask_raises_rather_than_drop_it(tmp_path):
    mask = np.ones(20, dtype=np.bool_)
    path = write_tokens(tmp_path, "a", {0: [0] * 20}, loss_mask=mask)
    with pytest.raises(ArtifactError, match="has a loss mask"):
        write_shards([path], (), **SETTINGS, destination=tmp_path / "out")


def test_write_shards_no_token_file_raises(tmp_path):
    with pytest.raises(ArtifactError, match="there is no token file"):
        write_shards([], (), **SETTINGS, destination=tmp_path / "out")
