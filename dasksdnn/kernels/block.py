"""A row block's pattern, made ready for the kernels: its supernodes, and its transposed index for the way back.

    W:    row i               -> columns, values data[indptr[i] : indptr[i + 1]]
    W^T:  column j, which is  -> rows,    values data[order[e]] for e in indptr[k] .. indptr[k + 1]
          columns[k]

Values stand once, in the order of the rows: the product backward reads them through `order`, so an update is seen by both.
Columns are listed so that those with the same rows stand together: the order of a layer's neurons is made for its rows.
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
    columns : uint32 array of shape (inputs,)
        The columns, in the order in which they are listed here.
    indptr : int64 array of shape (inputs + 1,)
    indices : uint16 or uint32 array of shape (nonzeros,)
        Rows, ascending within a column.
    order : uint32 or int64 array of shape (nonzeros,)
        Where the value of each entry stands in the block's data.
    supernodes : int64 array
        Columns with the same rows that stand together (see `find_supernodes`).
    """

    columns: Array
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

    Raises
    ------
    ValueError
        The arrays are no CSR pattern of so many inputs.
    """
    indptr, indices = np.ascontiguousarray(indptr, np.int64), np.ascontiguousarray(indices)
    if indptr[0] != 0 or indptr[-1] != indices.size or (np.diff(indptr) < 0).any():
        raise ValueError("indptr does not rise from 0 to the number of entries")
    if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < inputs:
        raise ValueError(f"indices run from {indices.min()} to {indices.max()}: the input panel has {inputs} entries")
    back = make_transpose(indptr, indices, inputs) if transpose else None
    return Block(indptr, indices, find_supernodes(indptr, indices), inputs, back)


def make_transpose(indptr: Array, indices: Array, inputs: int) -> Transpose:
    """Index a block by columns; see `Transpose`."""
    rows, nonzeros = indptr.size - 1, indices.size
    length, keys = np.zeros(inputs, np.int64), np.zeros(inputs, np.uint64)
    _count(indptr, indices, length, keys)
    columns = _together(keys, length)
    back: Array = np.zeros(inputs + 1, np.int64)
    np.cumsum(length[columns], out=back[1:])
    which: Array = np.empty(nonzeros, np.uint16 if rows <= 1 << 16 else np.uint32)
    order: Array = np.empty(nonzeros, np.uint32 if nonzeros < 1 << 32 else np.int64)
    reached = np.empty(inputs, np.int64)
    reached[columns] = back[:-1]
    _transpose(indptr, indices, reached, which, order)
    return Transpose(columns.astype(np.uint32), back, which, order, find_supernodes(back, which))


def _together(keys: Array, lengths: Array) -> Array:
    """Columns with one key and length behind one another, each group where its first column is."""
    alike = np.lexsort((keys, lengths))
    new = np.ones(alike.size, np.bool_)
    new[1:] = (np.diff(keys[alike]) != 0) | (np.diff(lengths[alike]) != 0)
    first: Array = np.empty(alike.size, np.int64)
    first[alike] = alike[new][np.cumsum(new) - 1]
    return np.argsort(first, kind="stable")


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
        A supernode has `MOST_TWINS` rows at most, so that threads can share a dense layer.
    """
    ends: Array = np.ones(indptr.size, np.bool_)
    _same_columns(indptr, indices, ends)
    return np.flatnonzero(ends)


#: A multiple of the rows that any kernel computes at once.
MOST_TWINS = 64


@compiled
def _same_columns(indptr, indices, ends):  # type: ignore[no-untyped-def]
    """Mark in `ends` the rows whose columns are not those of the row before."""
    begin = 0
    for i in range(1, indptr.size - 1):
        a, b = indptr[i - 1], indptr[i]
        n = indptr[i + 1] - b
        same = b - a == n
        e = 0
        while same and e < n:
            same = indices[a + e] == indices[b + e]
            e += 1
        ends[i] = not same or i - begin == MOST_TWINS
        if ends[i]:
            begin = i


@compiled
def _count(indptr, indices, length, keys):  # type: ignore[no-untyped-def]
    """Entries of each column, and a key of its rows: columns of one key are only listed together, so a collision is harmless."""
    for i in range(indptr.size - 1):
        mixed = np.uint64(i + 1) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(32)
        for e in range(indptr[i], indptr[i + 1]):
            length[indices[e]] += 1
            keys[indices[e]] += mixed


@compiled
def _transpose(indptr, indices, reached, which, order):  # type: ignore[no-untyped-def]
    """Counting sort of the entries by column; rows come in ascending order within each."""
    for i in range(indptr.size - 1):
        for e in range(indptr[i], indptr[i + 1]):
            at = reached[indices[e]]
            which[at] = i
            order[at] = e
            reached[indices[e]] = at + 1


def warm_up_calls(positions: np.dtype[Any], *, transpose: bool = False) -> list[Call]:
    """List calls (see `compiling.warm_up`) that make a block, for one dtype of positions."""
    return [partial(make_block, np.zeros(2, np.int64), np.zeros(0, positions), 1, transpose=transpose)]
