"""Clusters of rows that read the same columns, found by passing labels back and forth between rows and columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from dasksdnn.compiling import compiled
from dasksdnn.network import Array

#: Rounds after which labels are taken as they are: what has structure settles in three to five.
ROUNDS = 10
#: Share of the rows below which so few move that another round changes little.
SETTLED = 0.01


def cluster(pattern: Any, transposed: Any, most: int) -> Array:
    """Cluster the rows of a pattern.

    Each row begins as a cluster of its own. In turn, every column chooses among the labels of the rows that read it, and
    every row among the labels of the columns it reads: the one that it has most often beyond what chance would give, as
    long as that label has room. So a row and what it reads end up under one label wherever the pattern has communities,
    whatever their size; without the share of chance, labels of popular columns would swallow all others.

    Parameters
    ----------
    pattern : csr_array of shape (rows, columns)
        Values are not looked at.
    transposed : csr_array of shape (columns, rows)
    most : int
        No label is given to more than this many rows, nor to more than this many columns, so that what a cluster reads
        stays in a cache.

    Returns
    -------
    int32 array of shape (rows,)
        Label of each row, a row number. The same for the same pattern, on every run.

    Notes
    -----
    A vertex v of degree d_v takes the label l of highest (edges from v to l) - d_v D_l / (all edges), where D_l is the
    sum of the degrees of l's vertices on the other side: each choice raises bipartite modularity. Label propagation:
    Raghavan, Albert and Kumara, Phys. Rev. E 76, 036106 (2007); for modularity, bipartite graphs too: Barber and Clark,
    Phys. Rev. E 80, 026129 (2009); bounded clusters: Meyerhenke, Sanders and Schulz, SEA 2014. Time is linear in the
    nonzeros: three passes over them for each side and round.
    """
    rows, columns = pattern.shape
    row_label: Array = np.arange(rows, dtype=np.int32)
    column_label = np.full(columns, -1, np.int32)
    of_rows = np.ones(rows, np.int64), np.diff(pattern.indptr).astype(np.int64)
    of_columns = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    votes = np.zeros(rows, np.int32)
    for _ in range(ROUNDS):
        _choose(transposed.indptr, transposed.indices, row_label, of_rows, column_label, of_columns, most, votes)
        moved = _choose(pattern.indptr, pattern.indices, column_label, of_columns, row_label, of_rows, most, votes)
        if moved < SETTLED * rows:
            break
    return row_label


@compiled
def _choose(indptr, indices, other, of_other, mine, of_mine, most, votes):  # type: ignore[no-untyped-def]
    """Let every vertex of one side choose its label, -1 being none yet; count those that change it.

    other, mine : labels of the other side's vertices and of this side's
    of_other, of_mine : how many vertices of that side each label has, and the sum of their degrees
    votes : zeros, one for each label
    """
    (size, degrees), other_degrees = of_mine, of_other[1]
    moved = 0
    for v in range(indptr.size - 1):
        neighbours = indices[indptr[v] : indptr[v + 1]]
        for u in neighbours:
            if other[u] >= 0:
                votes[other[u]] += 1
        chance = neighbours.size / indices.size
        best = present = mine[v]
        gain = votes[present] - chance * other_degrees[present] if present >= 0 else -np.inf
        for u in neighbours:
            label = other[u]
            if label >= 0 and size[label] < most:
                this = votes[label] - chance * other_degrees[label]
                if this > gain:
                    best, gain = label, this
        for u in neighbours:
            if other[u] >= 0:
                votes[other[u]] = 0
        if best != present:
            moved += 1
            mine[v] = best
            size[best] += 1
            degrees[best] += neighbours.size
            if present >= 0:
                size[present] -= 1
                degrees[present] -= neighbours.size
    return moved
