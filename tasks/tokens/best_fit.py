"""Best-fit-decreasing bin packing of very many small items into rows.

Items are taken by falling size, each into the row with the least free space that holds it, or into
a new row. Items of equal size are interchangeable, and so are rows of equal free space: whole
groups are moved at once, so that time and memory are those of a few passes over the items.

Source: Johnson et al. 1974, "Worst-case performance bounds for simple one-dimensional packing
algorithms"; the grouping is ours.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]


def best_fit_rows(sizes: Int32Array, *, capacity: int) -> Int32Array:
    """Return the number of the row that takes each item; rows are numbered from 0 without a gap.

    Among items of one size, and among rows of equal free space, the first goes first.

    Args:
        sizes: of the items, each from 1 to ``capacity``.
        capacity: of a row, below 2**16.

    Example:
        >>> best_fit_rows(np.array([5, 3, 7, 2], dtype=np.int32), capacity=10).tolist()
        [1, 0, 0, 1]
    """
    assert 0 < capacity < 2**16, "sizes are sorted as uint16"
    by_size = np.argsort((capacity - sizes).astype(np.uint16), kind="stable")  # a radix sort
    num_items = np.bincount(sizes, minlength=capacity + 1)
    rows = _OpenRows(capacity)
    row_of_item = np.empty(len(sizes), dtype=np.int32)
    done = 0
    for size in range(capacity, 0, -1):
        stop = done + int(num_items[size])
        while done < stop:
            taken = rows.fill(size, at_most=stop - done)
            row_of_item[by_size[done : done + len(taken)]] = taken
            done += len(taken)
    return row_of_item


class _OpenRows:
    """Rows with free space, grouped by how much."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._num_opened = 0
        self._has_rows = np.zeros(capacity + 1, dtype=np.bool_)  # by space
        self._groups: dict[int, deque[Int32Array]] = {}  # space -> rows, in the order they came

    def fill(self, size: int, *, at_most: int) -> Int32Array:
        """Put items of one size into rows that fit them best; return the row of each, at least one.

        A row that takes one item is still the best fit for the next one, until it is too full. So
        many rows are filled that way at once, or, for the last few items, one row in part.
        """
        space = self._tightest(size, num_items=at_most)
        rows = self._take(space)
        per_row = space // size
        num_full = min(len(rows), at_most // per_row)
        num_used, each = (num_full, per_row) if num_full else (1, at_most)
        self._put(rows[:num_used], space - each * size)
        self._put(rows[num_used:], space, first=True)
        return np.repeat(rows[:num_used], each)

    def _tightest(self, size: int, *, num_items: int) -> int:
        """Return the least sufficient free space of any row; open rows where there is none."""
        fitting = self._has_rows[size:]
        best = int(fitting.argmax())
        if fitting[best]:
            return size + best
        needed = -(-num_items // (self._capacity // size))
        opened = np.arange(self._num_opened, self._num_opened + needed, dtype=np.int32)
        self._num_opened += needed
        self._put(opened, self._capacity)
        return self._capacity

    def _take(self, space: int) -> Int32Array:
        group = self._groups[space]
        rows = group.popleft()
        self._has_rows[space] = bool(group)
        return rows

    def _put(self, rows: Int32Array, space: int, *, first: bool = False) -> None:
        if not len(rows) or not space:
            return
        group = self._groups.setdefault(space, deque())
        if first:
            group.appendleft(rows)
        else:
            group.append(rows)
        self._has_rows[space] = True
