"""The hypergraph of one layer: what a partitioner cuts in it is exactly what the parts will send.

    vertex   a clump of rows of W_k with the same columns; its weight is its nonzeros
    net      column j: the clumps that read x_{k-1}[j], and one FIXED vertex, of the part that owns x_{k-1}[j]
    cost     how many columns have this same set of pins

Connectivity minus one, summed over the nets, is the layer's volume (Demirci and Ferhatosmanoglu, arXiv 2104.11805,
section 4; merging identical rows and nets is ours, and makes the problem 5 to 20 times smaller on RadiX-Net).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dasksdnn.network import Array

#: A clump weighs at most this fraction of a part's average, else no whole number of clumps makes a balanced part.
CLUMP_FRACTION = 1 / 4


@dataclass(frozen=True, slots=True, eq=False)
class LayerHypergraph:
    """Flat arrays; vertices are the clumps, then (where the previous layer is known) one fixed vertex per part."""

    nparts: int
    #: int64 (vertices,): nonzeros of a clump, 1 for a fixed vertex (libraries ignore or fail on weight 0).
    vertex_weight: Array
    #: int64 (nets + 1,): net e pins `pins[net_ptr[e]:net_ptr[e + 1]]`.
    net_ptr: Array
    #: int64: vertex numbers, each at most once in a net, at least two in a net.
    pins: Array
    #: int64 (nets,): number of columns with these pins.
    net_cost: Array
    #: int64 (vertices,): the part of a fixed vertex, -1 for a clump.
    fixed: Array
    #: int64 (rows,): the vertex of each row, -1 for a row with no nonzeros.
    clump_of_row: Array

    @property
    def clumps(self) -> int:
        """Number of free vertices."""
        return int(np.count_nonzero(self.fixed < 0))

    def km1(self, part: Array) -> int:
        """The sum over nets of cost * (parts - 1), for a part of each vertex."""
        net = np.repeat(np.arange(self.net_cost.size), np.diff(self.net_ptr))
        touched = np.unique(net * self.nparts + part[self.pins]) // self.nparts
        return int(((np.bincount(touched, minlength=self.net_cost.size) - 1) * self.net_cost).sum())

    def rows(self, part: Array) -> Array:
        """The part of each row, for a part of each vertex; -1 for rows with no nonzeros."""
        return of_rows(self.clump_of_row, part)


def layer_hypergraph(
    weights: Any, owner_in: Array | None, nparts: int, clump_fraction: float = CLUMP_FRACTION
) -> LayerHypergraph:
    """Build the hypergraph of one layer.

    Parameters
    ----------
    weights : csr_array of shape (outputs, inputs)
        The layer.
    owner_in : int array of shape (inputs,), or None
        The part of each input neuron; None for the first layer, whose inputs follow its rows.
    nparts : int
        Number of parts.
    clump_fraction : float
        The heaviest clump of several rows, in average part weights.

    Returns
    -------
    LayerHypergraph
    """
    clump_of_row, first = clumps(weights, weights.nnz / nparts * clump_fraction)
    nonzeros = np.diff(weights.indptr)
    free = first.size
    weight = np.bincount(clump_of_row[clump_of_row >= 0], nonzeros[clump_of_row >= 0], free).astype(np.int64)
    fixed = np.full(free, -1, np.int64)
    columns = weights[first].tocsc()
    ptr, pins = columns.indptr.astype(np.int64), columns.indices.astype(np.int64)
    if owner_in is not None:
        # The fixed pin goes last in each net: inserting before the position ptr[j + 1] shifts every later net by one.
        pins = np.insert(pins, ptr[1:], free + owner_in.astype(np.int64))
        ptr = ptr + np.arange(ptr.size)
        weight = np.concatenate([weight, np.ones(nparts, np.int64)])
        fixed = np.concatenate([fixed, np.arange(nparts)])
    net_ptr, net_pins, cost = merge_nets(ptr, pins)
    return LayerHypergraph(nparts, weight, net_ptr, net_pins, cost, fixed, clump_of_row)


def clumps(weights: Any, heaviest: float, owner: Array | None = None) -> tuple[Array, Array]:
    """Group rows with the same columns into clumps of nearly equal size, no heavier than `heaviest` (or of one row).

    Parameters
    ----------
    weights : csr_array of shape (rows, columns)
    heaviest : float
        Nonzeros.
    owner : int array of shape (rows,), optional
        Only rows of one owner share a clump.

    Returns
    -------
    clump_of_row : int64 array of shape (rows,)
        Numbered by first row; -1 for rows with no nonzeros.
    first : int64 array of shape (clumps,)
        The first row of each clump.
    """
    nonzeros = np.diff(weights.indptr).astype(np.int64)
    twin = identical(weights.indptr.astype(np.int64), weights.indices)
    if owner is not None:
        _, alike, same = np.unique(
            twin * (int(owner.max(initial=0)) + 1) + owner, return_index=True, return_inverse=True
        )
        twin = alike[same]
    order = np.argsort(twin, kind="stable")
    order = order[nonzeros[order] > 0]
    _, start, size = np.unique(twin[order], return_index=True, return_counts=True)
    rank = np.arange(order.size) - np.repeat(start, size)
    size = np.repeat(size, size)
    per_clump = np.maximum(1, (heaviest // np.maximum(nonzeros[order], 1)).astype(np.int64))
    pieces = -(-size // per_clump)
    piece = rank * pieces // size
    head = np.ones(order.size, bool)
    head[1:] = (twin[order][1:] != twin[order][:-1]) | (piece[1:] != piece[:-1])
    clump_of_row = np.full(nonzeros.size, -1, np.int64)
    clump_of_row[order] = np.cumsum(head) - 1
    return clump_of_row, order[head]


def of_rows(clump_of_row: Array, part: Array) -> Array:
    """The part of each row, for a part of each clump; -1 for rows with no nonzeros."""
    rows: Array = np.append(part, -1)[clump_of_row]  # clump -1 finds the -1 at the end
    return rows


def identical(ptr: Array, items: Array) -> Array:
    """For each list `items[ptr[i]:ptr[i + 1]]` of ascending numbers, the first list that equals it (itself, if none).

    Lists are matched by a 64-bit key and then compared entry by entry, so a collision of keys costs quality, not truth.
    """
    length = np.diff(ptr)
    mixed = (items.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    key = (total[ptr[1:]] - total[ptr[:-1]]) ^ length.astype(np.uint64)
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    twin = first[group.reshape(-1)]
    twin = np.where(length[twin] == length, twin, np.arange(length.size))
    offset = np.repeat(ptr[twin] - ptr[:-1], length)
    differs = items[np.arange(items.size) + offset] != items
    wrong = np.unique(np.searchsorted(ptr, np.flatnonzero(differs), "right") - 1)
    twin[wrong] = wrong
    return twin


def merge_nets(ptr: Array, pins: Array) -> tuple[Array, Array, Array]:
    """Drop nets under two pins, and merge nets with the same pins, adding their costs."""
    length = np.diff(ptr)
    twin = identical(ptr, pins)
    cost = np.bincount(twin, minlength=length.size)
    kept = np.flatnonzero((cost > 0) & (length > 1))
    net_ptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(length[kept])])
    position = np.arange(net_ptr[-1]) + np.repeat(ptr[kept] - net_ptr[:-1], length[kept])
    return net_ptr, pins[position], cost[kept].astype(np.int64)
