"""A row block's pattern, made ready for the kernels: its supernodes, and its transposed index for the way back.

    W:    row i    -> columns, values data[indptr[i] : indptr[i + 1]]
    W^T:  column j -> rows,    values data[order[e]] for e in indptr[j] .. indptr[j + 1]

Values stand once, in the order of the rows: the product backward reads them through `order`, so an update is seen by both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dasksdnn.compiling import Call, compiled
from dasksdnn.network import Array


@dataclass(frozen=True, slots=True)
class Transpose:
    """The pattern of a block by columns.

    Attributes
    ----------
    indptr : int64 array of shape (inputs + 1,)
    indices : uint16 or uint32 array of shape (nonzeros,)
        Rows, ascending within a column.
    order : uint32 or int64 array of shape (nonzeros,)
        Where the value of each entry stands in the block's data.
    supernodes : int64 array
        Columns with the same rows that stand together (see `find_supernodes`).
    """

    indptr: Array
    indices: Array
    order: Array
    supernodes: Array


@dataclass(frozen=True, slots=True)
class Block:
    """The pattern of a row block, as `make_block` makes it.

    Attributes
    ----------
    indptr : int64 array of shape (rows + 1,)
    indices : uint16, uint32, int32 or int64 array of shape (nonzeros,)
        Positions in the input panel, in the stored order.
    supernodes : int64 array
        Rows with the same columns that stand together (see `find_supernodes`).
    inputs : int
        Length of the input panel.
    transpose : Transpose or None
        None where the block is only used forward.
    """

    indptr: Array
    indices: Array
    supernodes: Array
    inputs: int
    transpose: Transpose | None = None

    @property
    def rows(self) -> int:
        """Outputs."""
        return int(self.indptr.size - 1)

    @property
    def nonzeros(self) -> int:
        """Stored weights."""
        return int(self.indices.size)


def make_block(indptr: Array, indices: Array, inputs: int, *, transpose: bool = False) -> Block:
    """Make a pattern ready for the kernels.

    Parameters
    ----------
    indptr, indices : arrays of shape (rows + 1,), (nonzeros,)
        CSR; every position is below `inputs`.
    inputs : int
    transpose : bool
        Make the transposed index too.
    """
    indptr = np.ascontiguousarray(indptr, np.int64)
    back = make_transpose(indptr, indices, inputs) if transpose else None
    return Block(indptr, indices, find_supernodes(indptr, indices), inputs, back)


def make_transpose(indptr: Array, indices: Array, inputs: int) -> Transpose:
    """Index a block by columns; see `Transpose`."""
    rows, nonzeros = indptr.size - 1, indices.size
    back: Array = np.zeros(inputs + 1, np.int64)
    which: Array = np.empty(nonzeros, np.uint16 if rows <= 1 << 16 else np.uint32)
    order: Array = np.empty(nonzeros, np.uint32 if nonzeros < 1 << 32 else np.int64)
    _transpose(indptr, indices, back, which, order)
    return Transpose(back, which, order, find_supernodes(back, which))


def find_supernodes(indptr: Array, indices: Array) -> Array:
    """Find consecutive rows that share their columns.

    Parameters
    ----------
    indptr, indices : arrays
        A row block in CSR.

    Returns
    -------
    int64 array
        0, the first row of each further supernode, and the number of rows; (rows + 1) entries where no row has a twin.
    """
    ends: Array = np.ones(indptr.size, np.bool_)
    _same_columns(indptr, indices, ends)
    return np.flatnonzero(ends)


@compiled
def _same_columns(indptr, indices, ends):  # type: ignore[no-untyped-def]
    """Mark in `ends` the rows whose columns are not those of the row before."""
    for i in range(1, indptr.size - 1):
        a, b = indptr[i - 1], indptr[i]
        n = indptr[i + 1] - b
        same = b - a == n
        e = 0
        while same and e < n:
            same = indices[a + e] == indices[b + e]
            e += 1
        ends[i] = not same


@compiled
def _transpose(indptr, indices, back, which, order):  # type: ignore[no-untyped-def]
    """Counting sort of the entries by column; rows come in ascending order within each."""
    for e in range(indices.size):
        back[indices[e] + 1] += 1
    for j in range(1, back.size):
        back[j] += back[j - 1]
    reached = back[:-1].copy()
    for i in range(indptr.size - 1):
        for e in range(indptr[i], indptr[i + 1]):
            at = reached[indices[e]]
            which[at] = i
            order[at] = e
            reached[indices[e]] = at + 1


def warm_up_calls(positions: np.dtype[Any], *, transpose: bool = False) -> list[Call]:
    """List calls (see `compiling.warm_up`) that make a block, for one dtype of positions."""
    return [partial(make_block, np.zeros(2, np.int64), np.zeros(0, positions), 1, transpose=transpose)]
