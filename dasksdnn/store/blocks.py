"""A row block: the rows of one layer that one part owns, its columns renumbered to the part's own input panel.

    columns of block (k, p):   [ every neuron of layer k-1 that p owns, in p's order | what p receives, sender by sender,
                                 in the sender's order ]

so that own values and received messages, laid end to end, are the input panel, with no further gather.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from dasksdnn.network import Array, Layer
from dasksdnn.partition.order import neuron_order


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Block (layer, part) of a network.

    Attributes
    ----------
    layer, part : int
        `layer` is 0-based: 0 is W_1.
    rows : int array of shape (rows,)
        Global neurons of the outputs, in the part's order.
    columns : int array of shape (columns,)
        Global neurons of the input panel.
    own : int
        How many of `columns` the part owns; they stand first.
    indptr, indices, data : arrays
        CSR over positions in the input panel.
    bias : array of shape (rows,)
    """

    layer: int
    part: int
    rows: Array
    columns: Array
    own: int
    indptr: Array
    indices: Array
    data: Array
    bias: Array

    def tocsr(self) -> Any:
        """The block as a `scipy.sparse.csr_array` of shape (rows, columns of the input panel)."""
        shape = (self.rows.size, self.columns.size)
        return scipy.sparse.csr_array((self.data, self.indices.astype(np.int64), self.indptr), shape=shape)


def first_fault(block: RowBlock, inputs: int, outputs: int) -> tuple[str, str] | None:
    """The array of a block that would lead an index out of bounds, and how; None where the block is sound."""
    if block.rows.size and int(block.rows.max()) >= outputs:
        return "rows", "a neuron that it has not is named"
    if block.columns.size and int(block.columns.max()) >= inputs:
        return "columns", "a neuron that its input has not is named"
    if block.columns.size < block.own:
        return "columns", "fewer neurons are named than the part owns"
    if block.indptr.size != block.rows.size + 1 or block.indptr[0] != 0 or block.indptr[-1] != block.indices.size:
        return "indptr", "row pointers do not run from 0 to the number of entries"
    if (np.diff(block.indptr) < 0).any():
        return "indptr", "row pointers fall"
    if block.indices.size and int(block.indices.max()) >= block.columns.size:
        return "indices", "a position is beyond the input panel"
    return None


@dataclass(frozen=True, slots=True)
class Order:
    """Who owns the neurons of one layer, and in which order each part holds them."""

    owner: Array
    members: tuple[Array, ...]

    @property
    def position(self) -> Array:
        """Part-major position of each neuron: all of part 0 in its order, then all of part 1, ..."""
        position: Array = np.empty(self.owner.size, np.int64)
        position[np.concatenate(self.members)] = np.arange(self.owner.size)
        return position


def input_order(owner: Array, nparts: int) -> Order:
    """Order of the inputs: ascending within each part."""
    return Order(owner, tuple(np.flatnonzero(owner == part) for part in range(nparts)))


def row_order(layer: Layer, owner: Array, nparts: int) -> Order:
    """Order of a layer's outputs, as `partition.order` chooses it."""
    rows = (np.flatnonzero(owner == part) for part in range(nparts))
    return Order(owner, tuple(neuron_order(layer.weights, r) for r in rows))


def cut(k: int, layer: Layer, before: Order, after: Order) -> Sequence[RowBlock]:
    """Cut layer `k` (0-based) into one block a part."""
    position = before.position
    return [_cut_one(k, part, layer, before, position, after.members[part]) for part in range(len(after.members))]


def cut_part(k: int, part: int, layer: Layer, before: Order, after: Order) -> RowBlock:
    """Cut one part's block of layer `k` (0-based)."""
    return _cut_one(k, part, layer, before, before.position, after.members[part])


def _cut_one(k: int, part: int, layer: Layer, before: Order, position: Array, rows: Array) -> RowBlock:
    sub = layer.weights[rows]
    touched = np.zeros(before.owner.size, bool)
    touched[sub.indices] = True
    received = np.flatnonzero(touched & (before.owner != part))
    received = received[np.argsort(position[received])]
    own = before.members[part]
    columns = np.concatenate([own, received])
    panel = np.empty(before.owner.size, np.int64)
    panel[columns] = np.arange(columns.size)
    local = scipy.sparse.csr_array((sub.data, panel[sub.indices], sub.indptr), shape=(rows.size, columns.size))
    local.sort_indices()
    return RowBlock(k, part, rows, columns, own.size, local.indptr, local.indices, local.data, layer.bias[rows])
