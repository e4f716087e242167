"""A walk over the rows of a pattern in which each step shares as many columns as it can with the last few.

    placed:  ... p q r s t u        next: the row that shares most columns with r, s, t and u together
                     window

The scores of all rows are kept up to date as rows enter and leave the window, so a step looks at its neighbours only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dasksdnn.compiling import compiled
from dasksdnn.network import Array


def pairs(transposed: Any) -> int:
    """Steps that a walk takes: the sum over the columns of (rows that read it) squared."""
    return int(np.sum(np.diff(transposed.indptr).astype(np.int64) ** 2))


def walk(pattern: Any, transposed: Any, window: int, widest: int) -> Array:
    """Order the rows of a pattern.

    Parameters
    ----------
    pattern : csr_array of shape (rows, columns)
        Values are not looked at.
    transposed : csr_array of shape (columns, rows)
    window : int
        With how many of the rows last placed the next one shall share columns.
    widest : int
        A column that more rows read than this is passed over: it tells rows apart badly, and costs its rows squared.

    Returns
    -------
    int64 array of shape (rows,)
        A permutation. Where nothing is shared, the walk goes on at the lowest row that is left.

    Notes
    -----
    Each of `pairs` is taken twice, at about 10 ns. Gorder: Wei, Yu, Lu and Lin, "Speedup graph processing by
    graph ordering", SIGMOD 2016, here on a bipartite graph: the score is the number of shared columns, kept by
    increments in buckets. Of equal rows the one whose score changed last is taken, which keeps a chain going forward.
    """
    rows = pattern.shape[0]
    order: Array = np.empty(rows, np.int64)
    if rows:
        ends = pattern.indptr, pattern.indices, transposed.indptr, transposed.indices
        highest = window * int(np.diff(pattern.indptr).max())
        _walk(*ends, window, widest, np.full(highest + 1, -1, np.int32), np.zeros(rows, np.int32), order)
    return order


@compiled
def _walk(row_ptr, columns, column_ptr, rows, window, widest, first, score, order):  # type: ignore[no-untyped-def]
    """Place one row after the other. `first[s]` heads a doubly linked list of the rows of score s > 0."""
    after, before = np.full(order.size, -1, np.int32), np.full(order.size, -1, np.int32)
    lists = first, after, before
    top = lowest = 0
    for t in range(order.size):
        while top > 0 and first[top] < 0:
            top -= 1
        if top > 0:
            row = first[top]
            first[top] = after[row]
            if after[row] >= 0:
                before[after[row]] = -1
        else:
            while score[lowest] < 0:
                lowest += 1
            row = lowest
        order[t] = row
        score[row] = -1  # placed
        for place, change in ((t - window, -1), (t, 1)):
            if place >= 0:
                read = columns[row_ptr[order[place]] : row_ptr[order[place] + 1]]
                top = max(top, _rescore(read, column_ptr, rows, widest, change, score, lists))


@compiled
def _rescore(read, column_ptr, rows, widest, change, score, lists):  # type: ignore[no-untyped-def]
    """Change the score of each row left by one for each of the columns `read` that it reads; the highest new score.

    All in one function: a call for each change would take longer than the change.
    """
    first, after, before = lists
    highest = 0
    for c in read:
        if column_ptr[c + 1] - column_ptr[c] > widest:
            continue
        for row in rows[column_ptr[c] : column_ptr[c + 1]]:
            s = score[row]
            if s < 0:
                continue
            if s > 0 and before[row] < 0:
                first[s] = after[row]
            elif s > 0:
                after[before[row]] = after[row]
            if s > 0 and after[row] >= 0:
                before[after[row]] = before[row]
            s += change
            score[row] = s
            if s > 0:
                after[row], before[row] = first[s], -1
                if first[s] >= 0:
                    before[first[s]] = row
                first[s] = row
                highest = max(highest, s)
    return highest
