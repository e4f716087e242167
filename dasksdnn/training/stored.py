"""A layer of a store as training rules see it: in the network's own numbering, with all values that belong to its edges.

blocks (k, 0), (k, 1), ... --> one CSR by (row, column)      entry e  -- source[e] -->  data, data_first, ...
row i    -------------->  bias, bias_first, ...
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from dasksdnn.kernels.block import find_supernodes
from dasksdnn.network import Array
from dasksdnn.store.blocks import RowBlock
from dasksdnn.store.encoding import corrupt
from dasksdnn.store.layout import STATE
from dasksdnn.store.manifest import misfit, resembled
from dasksdnn.store.reader import Store
from dasksdnn.training.evolution import Panel


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """One layer of a store in the network's own numbering, and all values that belong to it.

    Attributes
    ----------
    number : int
        0-based.
    weights : csr_array of shape (outputs, inputs)
    source : int64 array of shape (nonzeros,)
        Where the values of each entry stand in those of `entries`.
    entries : dict of arrays of shape (nonzeros + 1,)
        Data and its moments in the stored order, with a zero behind them for edges that are new.
    neurons : dict of arrays of shape (outputs,)
        Bias and its moments.
    panels : tuple of (rows, columns), ascending
        What each part computes and may read without any word that it does not receive already.
    received, supernodes : int
        Over all parts.
    """

    number: int
    weights: Any
    source: Array
    entries: dict[str, Array]
    neurons: dict[str, Array]
    panels: tuple[Panel, ...]
    received: int
    supernodes: int


def read_layer(store: Store, k: int, moments: Collection[str] = ()) -> StoredLayer:
    """Read layer `k` (0-based) of all parts, with moments by name.

    Raises
    ------
    CorruptStoreError
    """
    blocks = [store.block(part, k) for part in range(store.nparts)]
    store.as_order(k + 1, tuple(block.rows for block in blocks))
    row = np.concatenate([np.repeat(block.rows, np.diff(block.indptr)) for block in blocks])
    column = np.concatenate([block.columns[block.indices] for block in blocks])
    shape = (store.widths[k + 1], store.widths[k])
    weights = scipy.sparse.coo_array((np.arange(row.size), (row, column)), shape=shape).tocsr()
    if weights.nnz != row.size:
        raise store.fault(int(store.owner[k + 1][0]), k, "indices", "a row has a column twice")
    entries, neurons = _values(store, blocks, moments)
    source, weights.data = weights.data, entries["data"][weights.data]
    return StoredLayer(
        k,
        weights,
        source,
        entries,
        neurons,
        tuple((np.sort(block.rows), np.sort(block.columns)) for block in blocks),
        _received(blocks),
        supernodes(blocks),
    )


def _values(
    store: Store, blocks: list[RowBlock], moments: Collection[str]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Values of a layer's entries in the stored order, a zero behind them, and those of its neurons."""
    entries: dict[str, Array] = {}
    neurons: dict[str, Array] = {}
    zero = np.zeros(1, store.dtype)
    for name in (*STATE, *moments):
        values = [_read(store, block, name) for block in blocks]
        if name.startswith("data"):
            entries[name] = np.concatenate([*values, zero])
        else:
            neurons[name] = np.empty(store.widths[blocks[0].layer + 1], store.dtype)
            neurons[name][np.concatenate([block.rows for block in blocks])] = np.concatenate(values)
    return entries, neurons


def _read(store: Store, block: RowBlock, name: str) -> Array:
    if name in STATE:
        values: Array = getattr(block, name)
        return values
    window, extent = store.window(block.part, block.layer), store.extent(block.part, block.layer)
    return store.array(window, name).read(*(extent.entries if name.startswith("data") else extent.rows))


def moments_of(store: Store) -> tuple[str, ...]:
    """Names of the moments that all windows of a store have.

    Raises
    ------
    CorruptStoreError
        One does not fit what it belongs to.
    """
    for window in store.iter_windows():
        for name in window.extra:
            if what := misfit(window, name, window.arrays[name].size, window.arrays[name].dtype):
                raise corrupt(f"{store.path}: {window.label(name)}", what)
    names = [tuple(filter(resembled, window.extra)) for window in store.iter_windows()]
    return tuple(name for name in names[0] if all(name in others for others in names))


def _received(blocks: list[RowBlock]) -> int:
    return sum(block.columns.size - block.own for block in blocks)


def supernodes(blocks: list[RowBlock]) -> int:
    """Runs of rows of one part that share their columns, over all blocks of a layer."""
    return sum(find_supernodes(block.indptr, block.indices).size - 1 for block in blocks if block.rows.size)
