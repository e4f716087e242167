"""From windows to a chain of layers: an owner's parts of a run of layers, merged.

The parts of a layer stand below one another, and positions in each part's input panel become positions in the owner's
(see `shares`). Rows keep their stored order of terms, so a store gives the same bits however its layers are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dasksdnn.engines.shares import Share, whole
from dasksdnn.kernels.chain import Chain, empty_chain, with_supernodes
from dasksdnn.kernels.panels import remap
from dasksdnn.network import Array
from dasksdnn.plan.memory import Sizes
from dasksdnn.store.encoding import corrupt
from dasksdnn.store.extents import Extent
from dasksdnn.store.layout import index_dtype
from dasksdnn.store.manifest import Window
from dasksdnn.store.reader import Store


def sizes_of(store: Store, share: Share | None = None) -> Sizes:
    """What a plan must know of a store, or of what one owner holds of it."""
    share = share or whole(store)
    edges = store.block_nonzeros()[:, list(share.parts)].sum(axis=1)
    widths = share.widths
    entry = store.dtype.itemsize + positions_dtype(store).itemsize
    layer_bytes = tuple(
        int(n) * entry + (after + 1) * 16 + after * (store.dtype.itemsize + 8)
        for n, after in zip(edges, widths[1:], strict=True)
    )
    return Sizes(widths, store.dtype.itemsize, layer_bytes, tuple(int(n) for n in edges), len(share.parts))


@dataclass(frozen=True, slots=True)
class Slab:
    """Layers `first` and following of a store, loaded together.

    Attributes
    ----------
    first : int
    chain : Chain
        Positions are those of the owner's panels.
    orders : tuple of int arrays
        Global neurons of each layer's outputs, in panel order.
    share : Share
        The owner's.
    """

    first: int
    chain: Chain
    orders: tuple[Array, ...]
    share: Share

    def ids(self) -> Array:
        """Global neurons of each layer's input panel, end to end, then of the last layer's outputs, as uint32."""
        panels = [self.share.panel(self.first)]
        for k, order in enumerate(self.orders[:-1], start=self.first + 1):
            panels += [order, self.share.crossings[k].received]
        return np.concatenate([*panels, self.orders[-1]]).astype(np.uint32)


def positions_dtype(store: Store) -> np.dtype[np.generic]:
    """Of positions in a panel, the same for all layers of a store: one kernel serves them all."""
    return index_dtype(max(store.widths))


def load(store: Store, first: int, last: int, share: Share | None = None) -> Slab:
    """Load layers `first` to `last` (0-based, `last` not included), an owner's parts merged (by default all).

    Raises
    ------
    CorruptStoreError
        What is read does not match the manifest, or could not be run.
    """
    share = share or whole(store)
    spans = list(_spans(store, share, first, last))
    order = {k: _merged(share, [span.rows(k) for span in spans if k in span], k) for k in range(first, last)}
    nonzeros = [sum(span.nonzeros(k) for span in spans if k in span) for k in order]
    rows, activations = [o.size for o in order.values()], store.activations[first:last]
    inputs = share.widths[first:last]
    chain = empty_chain(rows, nonzeros, inputs, activations, store.dtype, positions_dtype(store))
    layers = {k: _Layer(chain, k - first) for k in order}
    row = dict.fromkeys(order, 0)
    entry = dict.fromkeys(order, 0)
    tables = {k: _positions(share, k, order.get(k - 1)) for k in order}
    for span in spans:
        span.fill(layers, tables, row, entry)
    return Slab(first, with_supernodes(chain), tuple(order.values()), share)


def fill_state(store: Store, slab: Slab, name: str, out: Array) -> None:
    """Read further state of a slab's layers, such as an optimizer's moment, merged as the slab's values are.

    Parameters
    ----------
    store : Store
    slab : Slab
    name : str
        Of the array, "data_..." or "bias_...".
    out : array of the shape of the slab's data, or bias
    """
    last, kind = slab.first + len(slab.chain), 1 if name.startswith("data") else 2
    reached = {k: int(slab.chain.spans[k - slab.first, kind]) for k in range(slab.first, last)}
    for part in slab.share.parts:
        for window in store.windows(part):
            if name not in window.arrays:
                raise corrupt(f"{store.path}: {window.label(name)}", "the checkpoint has no such array")
            for k in range(max(slab.first, window.first), min(last, window.last)):
                extent = store.extents(window)[k - window.first]
                values = store.array(window, name).read(*(extent.entries if kind == 1 else extent.rows))
                out[reached[k] : reached[k] + values.size] = values
                reached[k] += values.size


class _Layer:
    """The arrays of one layer of a chain that is being filled."""

    def __init__(self, chain: Chain, k: int) -> None:
        block = chain.block(k)
        self.indptr, self.indices = block.indptr, block.indices
        self.data, self.bias = chain.values(k)


def _merged(share: Share, rows: list[Array], k: int) -> Array:
    """The rows of an owner's parts of layer `k`, checked."""
    order = np.concatenate([np.empty(0, np.int64), *rows]).astype(np.int64)
    count = share.crossings[k + 1].own if k + 1 < len(share.crossings) else share.outputs
    if order.size != count or (np.bincount(order, minlength=1) > 1).any():
        raise corrupt(f"{share.store.path}: layer {k + 1}, array 'rows'", "the parts' rows do not make up the layer")
    return order


def _positions(share: Share, k: int, before: Array | None) -> Array:
    """Where in the input panel of layer `k` each global neuron stands, and a position that no panel has where it does not."""
    width = share.store.widths[k]
    if k == 0:
        return np.arange(width, dtype=np.uint32)
    own = _merged(share, [share.rows(k - 1)], k - 1) if before is None else before
    panel = np.concatenate([own, share.crossings[k].received])
    table: Array = np.full(width, np.iinfo(np.uint32).max, np.uint32)
    table[panel] = np.arange(panel.size, dtype=np.uint32)
    return table


def _spans(store: Store, share: Share, first: int, last: int) -> Iterator[_Span]:
    for part in share.parts:
        for window in store.windows(part):
            if window.first < last and first < window.last:
                yield _Span(store, window, max(first, window.first), min(last, window.last))


class _Span:
    """The layers of one window that are being loaded: contiguous in each of its arrays."""

    def __init__(self, store: Store, window: Window, first: int, last: int) -> None:
        self.store, self.window, self.first, self.last = store, window, first, last
        self.extents: list[Extent] = store.extents(window)[first - window.first : last - window.first]
        self._rows = self._read("rows", self.extents[0].rows[0], self.extents[-1].rows[1])

    def __contains__(self, k: int) -> bool:
        return self.first <= k < self.last

    def _read(self, name: str, start: int, stop: int) -> Array:
        return self.store.array(self.window, name).read(start, stop)

    def rows(self, k: int) -> Array:
        extent, base = self.extents[k - self.first], self.extents[0].rows[0]
        rows = self._rows[extent.rows[0] - base : extent.rows[1] - base]
        if rows.size and rows.max() >= self.store.widths[k + 1]:
            raise corrupt(
                f"{self.store.path}: {self.window.label('rows')}", f"layer {k + 1} names a neuron that it has not"
            )
        return rows

    def nonzeros(self, k: int) -> int:
        extent = self.extents[k - self.first]
        return extent.entries[1] - extent.entries[0]

    def fill(
        self, layers: dict[int, _Layer], tables: dict[int, Array], row: dict[int, int], entry: dict[int, int]
    ) -> None:
        """Write this part's share of each layer at the rows and entries reached so far, and advance them."""
        self._fill_rows(layers, row, entry)
        self._fill_entries(layers, entry, "data", None)
        self._fill_entries(layers, entry, "indices", tables)
        for k in range(self.first, self.last):
            row[k] += self.rows(k).size
            entry[k] += self.nonzeros(k)

    def _fill_rows(self, layers: dict[int, _Layer], row: dict[int, int], entry: dict[int, int]) -> None:
        low, high = self.extents[0], self.extents[-1]
        indptr = self._read("indptr", low.indptr[0], high.indptr[1])
        bias = self._read("bias", low.rows[0], high.rows[1])
        for k, extent in enumerate(self.extents, start=self.first):
            local = indptr[extent.indptr[0] - low.indptr[0] : extent.indptr[1] - low.indptr[0]]
            count = self.rows(k).size
            if local.size != count + 1 or local[0] != 0 or local[-1] != self.nonzeros(k) or (np.diff(local) < 0).any():
                raise corrupt(
                    f"{self.store.path}: {self.window.label('indptr')}", f"layer {k + 1}: row pointers are not sound"
                )
            at = row[k]
            layers[k].indptr[at + 1 : at + 1 + count] = local[1:] + entry[k]
            layers[k].bias[at : at + count] = bias[extent.rows[0] - low.rows[0] : extent.rows[1] - low.rows[0]]

    def _fill_entries(
        self, layers: dict[int, _Layer], entry: dict[int, int], name: str, tables: dict[int, Array] | None
    ) -> None:
        """Copy `data`, or renumber `indices`, a few chunks at a time."""
        array = self.store.array(self.window, name)
        panel = self._panel_tables(tables) if tables is not None else {}
        for at, piece in array.pieces(self.extents[0].entries[0], self.extents[-1].entries[1]):
            for k, extent in enumerate(self.extents, start=self.first):
                low, high = max(at, extent.entries[0]), min(at + piece.size, extent.entries[1])
                if low >= high:
                    continue
                target = slice(entry[k] + low - extent.entries[0], entry[k] + high - extent.entries[0])
                values = piece[low - at : high - at]
                if tables is None:
                    layers[k].data[target] = values
                elif not remap(values, panel[k], layers[k].indices[target]):
                    raise corrupt(array.label, f"layer {k + 1}: a position is beyond the input panel")

    def _panel_tables(self, tables: dict[int, Array]) -> dict[int, Array]:
        """For each layer, where in the shared panel each position of the part's own input panel stands."""
        base = self.extents[0].columns[0]
        columns = self._read("columns", base, self.extents[-1].columns[1])
        panel = {}
        for k, extent in enumerate(self.extents, start=self.first):
            ids = columns[extent.columns[0] - base : extent.columns[1] - base]
            if ids.size and ids.max() >= self.store.widths[k]:
                raise corrupt(
                    f"{self.store.path}: {self.window.label('columns')}",
                    f"layer {k + 1} names a neuron that layer {k} has not",
                )
            panel[k] = tables[k][ids]
            if ids.size and panel[k].max() == np.iinfo(np.uint32).max:
                raise corrupt(
                    f"{self.store.path}: {self.window.label('columns')}",
                    f"layer {k + 1} names a neuron that its owner neither has nor receives",
                )
        return panel
