"""Exact relabelling: which group of rows gets which part's name, so that most of what it reads is already its own.

A layer's volume is (distinct pairs of group and column read) minus (those whose column the group's part owns). Names
only matter to the second term, and choosing them is an assignment problem, which is solved exactly in milliseconds.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import scipy.sparse
from scipy.optimize import linear_sum_assignment

from dasksdnn.network import Array


def touches(weights: Any, owner: Array, nparts: int) -> Any:
    """How many nonzeros each part has in each column: csr_array (nparts, inputs), rows of owner -1 left out."""
    row = np.repeat(owner.astype(np.int64), np.diff(weights.indptr))
    owned = row >= 0
    ones = np.ones(int(np.count_nonzero(owned)), np.int64)
    pairs = (row[owned], weights.indices[owned])
    return scipy.sparse.coo_array((ones, pairs), shape=(nparts, weights.shape[1])).tocsr()


def shared(touched: Any, owner_in: Array) -> Array:
    """Columns read by group g and owned by part p: int64 (groups, parts)."""
    nparts = touched.shape[0]
    group = np.repeat(np.arange(nparts), np.diff(touched.indptr))
    pairs = group * nparts + owner_in[touched.indices]
    return np.bincount(pairs, minlength=nparts * nparts).reshape(nparts, nparts)


def layer_volume(weights: Any, owner_in: Array | None, owner: Array, nparts: int) -> int:
    """Words per sample that this layer's rows need from other parts (`owner_in` None: the inputs follow the rows)."""
    touched = touches(weights, owner, nparts)
    if owner_in is None:
        return int(touched.nnz - np.unique(touched.indices).size)
    return int(touched.nnz - np.trace(shared(touched, owner_in)))


def relabel(weights: Any, owner_in: Array | None, owner: Array, nparts: int) -> Array:
    """Rename the parts of a layer's rows so that its volume is least.

    Parameters
    ----------
    weights : csr_array of shape (outputs, inputs)
        The layer.
    owner_in : int array of shape (inputs,), or None
        The part of each input neuron; None (the first layer) leaves the names as they are.
    owner : int array of shape (outputs,)
        The part of each row; -1 (not assigned) stays.
    nparts : int
        Number of parts.

    Returns
    -------
    int64 array of shape (outputs,)
    """
    if owner_in is None:
        return owner.astype(np.int64)
    _, name = linear_sum_assignment(shared(touches(weights, owner, nparts), owner_in), maximize=True)
    return np.where(owner < 0, -1, name[owner])


def input_owner(weights: Any, owner: Array, nparts: int) -> Array:
    """The part of each input neuron: the one with the most nonzeros in its column of W_1, the lowest of equals.

    Columns that no row reads are spread so that the parts' counts of inputs are even.
    """
    touched = touches(weights, owner, nparts).tocoo()
    # Later writes win: so ascending count, and among equal counts descending part.
    order = np.lexsort((-touched.row, touched.data))
    part = np.full(weights.shape[1], -1, np.int64)
    part[touched.col[order]] = touched.row[order]
    return spread(part, nparts)


def spread(owner: Array, nparts: int) -> Array:
    """Give every -1 in `owner` a part, always the one with the fewest entries, the lowest of equals."""
    owner = owner.astype(np.int64)
    have = np.bincount(owner[owner >= 0], minlength=nparts)
    emptiest = [(int(count), part) for part, count in enumerate(have)]
    heapq.heapify(emptiest)
    for i in np.flatnonzero(owner < 0):
        count, part = emptiest[0]
        owner[i] = part
        heapq.heapreplace(emptiest, (count + 1, part))
    return owner
