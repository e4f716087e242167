"""Balance by our own count: move rows until no part is above what epsilon allows, at little cost in volume.

Libraries exceed epsilon slightly, clumps are coarse, and fixed vertices shift weights, so every method's result comes
through here, where only nonzeros of whole rows count.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from dasksdnn.network import Array
from dasksdnn.partition.relabel import relabel, touches

#: Rounds per part at most. Each takes half of what is too much, because every move changes what the others cost.
ROUNDS = 8


def capacity(row_nonzeros: Array, nparts: int, epsilon: float) -> int:
    """Nonzeros that a part may hold: (1 + epsilon) times the average, or what heaviest-first packing needs, if more."""
    limit = allowed(row_nonzeros, nparts, epsilon)
    packed = np.bincount(pack(row_nonzeros, nparts), weights=row_nonzeros, minlength=nparts)
    return max(limit, int(packed.max()))


def allowed(row_nonzeros: Array, nparts: int, epsilon: float) -> int:
    """Nonzeros that epsilon lets a part hold: (1 + epsilon) times the average."""
    return int((1 + min(epsilon, nparts)) * int(row_nonzeros.sum()) / nparts + 1e-9)


def pack(row_nonzeros: Array, nparts: int, owner: Array | None = None) -> Array:
    """Assign rows, the heaviest first, each to the lightest part; rows that have an `owner` (not -1) stay."""
    owner = np.full(row_nonzeros.size, -1, np.int64) if owner is None else owner.copy()
    placed = owner >= 0
    load = np.bincount(owner[placed], weights=row_nonzeros[placed], minlength=nparts)
    lightest = [(int(weight), part) for part, weight in enumerate(load)]
    heapq.heapify(lightest)
    loose = np.flatnonzero(~placed)
    for i in loose[np.argsort(-row_nonzeros[loose], kind="stable")]:
        weight, part = lightest[0]
        owner[i] = part
        heapq.heapreplace(lightest, (weight + int(row_nonzeros[i]), part))
    return owner


def rebalance(weights: Any, owner_in: Array | None, owner: Array, nparts: int, epsilon: float) -> Array:
    """Move rows out of parts that are too heavy, those first that raise the layer's volume least.

    Parameters
    ----------
    weights : csr_array of shape (outputs, inputs)
        The layer.
    owner_in : int array of shape (inputs,), or None
        The part of each input neuron; None for the first layer.
    owner : int array of shape (outputs,)
        The part of each row that has nonzeros.
    nparts, epsilon : int, float
        Number of parts and allowed imbalance.

    Returns
    -------
    int64 array of shape (outputs,)
        No part holds more than `capacity(...)` nonzeros.
    """
    nonzeros = np.diff(weights.indptr).astype(np.int64)
    owner = np.where(nonzeros > 0, owner, -1).astype(np.int64)
    if _load(nonzeros, owner, nparts).max() <= allowed(nonzeros, nparts, epsilon):
        return owner
    limit = capacity(nonzeros, nparts, epsilon)
    for _ in range(ROUNDS * nparts):
        load = _load(nonzeros, owner, nparts)
        part = int(load.argmax())
        if load[part] <= limit or not _lighten(weights, owner_in, owner, part, load, limit):
            break
    return _repack(weights, owner_in, owner, nparts, limit)


def _load(nonzeros: Array, owner: Array, nparts: int) -> Array:
    has = owner >= 0
    return np.bincount(owner[has], weights=nonzeros[has], minlength=nparts).astype(np.int64)


def _lighten(weights: Any, owner_in: Array | None, owner: Array, part: int, load: Array, limit: int) -> bool:
    """Move some rows out of one part (in place); whether any row moved."""
    rows = np.flatnonzero(owner == part)
    nonzeros = np.diff(weights.indptr)
    price = move_prices(weights, owner_in, owner, rows, load.size)
    price[:, load >= limit] = np.inf
    quota = max((int(load[part]) - limit) / 2, limit / 100)
    moved = 0
    # Cheapest a nonzero first; a row's second choice of part comes later in the same list.
    order = np.argsort(price / nonzeros[rows, None], axis=None, kind="stable")
    for i, target in zip(*np.unravel_index(order, price.shape), strict=True):
        row, weight = rows[i], int(nonzeros[rows[i]])
        if moved >= quota or not np.isfinite(price[i, target]):
            break
        if owner[row] == part and load[target] + weight <= limit:
            owner[row] = target
            load[target] += weight
            moved += weight
    return moved > 0


def move_prices(weights: Any, owner_in: Array | None, owner: Array, rows: Array, nparts: int) -> Array:
    """What moving each of `rows`, all of one part, to each other part would add to the layer's volume.

    Returns
    -------
    float64 array of shape (len(rows), nparts)
        Infinite for the part that the rows are in.
    """
    touched = touches(weights, owner, nparts)
    part = int(owner[rows[0]])
    block = weights[rows].astype(np.int64)
    block.data[:] = 1
    alone = np.zeros(weights.shape[1], np.int64)
    alone[touched[[part]].indices] = touched[[part]].data == 1
    touched.data[:] = 1
    if owner_in is not None:
        inputs = np.arange(owner_in.size)
        touched = touched + type(touched)((np.ones_like(inputs), (owner_in, inputs)), shape=touched.shape)
        touched.data[:] = 1
        alone[owner_in == part] = 0
    added = np.diff(block.indptr)[:, None] - (block @ touched.T).toarray()
    price: Array = (added - (block @ alone)[:, None]).astype(np.float64)
    price[:, part] = np.inf
    return price


def _repack(weights: Any, owner_in: Array | None, owner: Array, nparts: int, limit: int) -> Array:
    """Where moves got stuck, take ever more of each part's rows out and pack them anew; all of them at last."""
    nonzeros = np.diff(weights.indptr).astype(np.int64)
    for kept in (1.0, 0.95, 0.8, 0.5, 0.0):
        trial = np.where(nonzeros > 0, _keep(nonzeros, owner, nparts, kept * limit), 0)
        trial = np.where(nonzeros > 0, pack(np.where(nonzeros > 0, nonzeros, 0), nparts, trial), -1)
        if _load(nonzeros, trial, nparts).max() <= limit:
            return trial if kept else relabel(weights, owner_in, trial, nparts)
    raise AssertionError("packing all rows anew meets the limit, which is made from it")


def _keep(nonzeros: Array, owner: Array, nparts: int, limit: float) -> Array:
    """Keep each part's rows, the heaviest first, while they fit under `limit`; the others get -1."""
    order = np.lexsort((-nonzeros, owner))
    order = order[owner[order] >= 0]
    running = np.cumsum(nonzeros[order])
    start = np.searchsorted(owner[order], np.arange(nparts))
    before = np.concatenate([np.zeros(1, np.int64), running])[start]
    kept = owner.copy()
    kept[order[running - before[owner[order]] > limit]] = -1
    return kept
