"""tasks.tokens.best_fit: packing by groups against the plain algorithm, one item at a time."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.tokens.best_fit import best_fit_rows


def rooms_of_plain_best_fit(sizes, capacity):
    rooms = []
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms[rooms.index(min(fitting))] -= size
        else:
            rooms.append(capacity - size)
    return sorted(rooms)


@st.composite
def items(draw):
    capacity = draw(st.integers(1, 40))
    return draw(st.lists(st.integers(1, capacity), max_size=80)), capacity


@settings(deadline=None, max_examples=100)
@given(items())
def test_best_fit_rows_any_items_fills_rows_as_the_plain_algorithm(given_items):
    sizes, capacity = given_items
    rows = best_fit_rows(np.array(sizes, dtype=np.int32), capacity=capacity)
    used = np.bincount(rows, weights=sizes).astype(int)
    assert sorted((capacity - used).tolist()) == rooms_of_plain_best_fit(sizes, capacity)


def test_best_fit_rows_worked_example_takes_large_items_first():
    sizes = np.array([5, 3, 7, 2], dtype=np.int32)
    assert best_fit_rows(sizes, capacity=10).tolist() == [1, 0, 0, 1]


def test_best_fit_rows_equal_items_fill_rows_in_their_order():
    sizes = np.full(7, 3, dtype=np.int32)
    assert best_fit_rows(sizes, capacity=9).tolist() == [0, 0, 0, 1, 1, 1, 2]


def test_best_fit_rows_nothing_gives_nothing():
    assert best_fit_rows(np.empty(0, dtype=np.int32), capacity=9).tolist() == []
