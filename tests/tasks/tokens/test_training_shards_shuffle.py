import numpy as np
import xxhash

from tasks.tokens.training_shards import document_hashes, splitmix64

# First outputs of SplitMix64 started at 1234567.
# Source: rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64
KNOWN = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def python_splitmix64(state):
    """The generator with Python's unbounded integers."""
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) % 2**64
    return state, mixed ^ (mixed >> 31)


def test_splitmix64_published_start_gives_the_published_numbers():
    start = np.full(5, 1234567, dtype=np.uint64)
    assert splitmix64(start, np.arange(5, dtype=np.uint64)).tolist() == KNOWN


def test_document_hashes_rows_of_a_file_are_one_generators_outputs():
    files = ("a/ü.parquet", "b")
    hashes = document_hashes(np.array([1, 1, 1, 0]), np.array([0, 1, 2, 0]), files=files, seed=7)
    state, expected = xxhash.xxh64_intdigest(b"b", seed=7), []
    for _ in range(3):
        state, value = python_splitmix64(state)
        expected.append(value)
    first = python_splitmix64(xxhash.xxh64_intdigest("a/ü.parquet".encode(), seed=7))[1]
    assert hashes.tolist() == [*expected, first]


def test_document_hashes_do_not_depend_on_other_files():
    alone = document_hashes(np.array([0]), np.array([3]), files=("m",), seed=1)
    among = document_hashes(np.array([2]), np.array([3]), files=("a", "b", "m"), seed=1)
    assert alone.tolist() == among.tolist()


def test_document_hashes_large_corpus_has_no_collision_and_is_uniform():
    rows = np.arange(200_000)
    hashes = document_hashes(rows % 2, rows // 2, files=("a", "b"), seed=1)
    assert len(np.unique(hashes)) == len(hashes)
    counts = np.bincount((hashes >> np.uint64(60)).astype(np.int64), minlength=16)
    assert abs(counts / len(rows) - 1 / 16).max() < 0.003  # five standard deviations
