"""Reading a store: opened by its manifest, checked as it is read, one range of layers of one part at a time."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from dasksdnn import markup
from dasksdnn.errors import CorruptStoreError, InputError, StoreError
from dasksdnn.network import Activation, Array, Layer, Network
from dasksdnn.plan.comm import CommPlan
from dasksdnn.store.blocks import Order, RowBlock, first_fault, input_order
from dasksdnn.store.encoding import CheckedArray, corrupt
from dasksdnn.store.extents import Extent, read_extents, span
from dasksdnn.store.layout import checkpoint_path
from dasksdnn.store.locating import generations, group_attributes, locate
from dasksdnn.store.manifest import Manifest, Window, check_version, read_manifest

#: Opened arrays that a store keeps: opening one reads its metadata anew.
_OPEN_ARRAYS = 1024


class Store:
    """An opened store. Make one with `open_store` or `save`.

    Attributes
    ----------
    path : Path
    widths : tuple of int
        Neurons of the input and of each layer.
    activations : tuple of Activation
        Of each layer.
    dtype : numpy dtype
        float32 or float64.
    nparts, edges : int
    name : str
    provenance : dict
        How the partition was made.

    Examples
    --------
    >>> import dasksdnn as sdnn, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> net = sdnn.radixnet(64, 2)
    >>> store = sdnn.save(net, folder.name + "/net.zarr", partition=sdnn.partition(net, 2, method="block"))
    >>> store.nparts, store.edges, store.provenance["method"]
    (2, 4096, 'block')
    >>> folder.cleanup()
    """

    def __init__(self, path: str | Path, location: Any, manifest: Manifest) -> None:
        self.path = Path(path).absolute()  # whatever the working folder becomes
        self.location = location
        self.manifest = manifest
        attributes = manifest.attributes
        self.widths: tuple[int, ...] = tuple(attributes["widths"])
        self.activations = tuple(Activation.parse(text) for text in attributes["activations"])
        self.dtype: np.dtype[Any] = np.dtype(attributes["dtype"])
        self.nparts: int = attributes["nparts"]
        self.version: int = attributes["version"]
        self.edges: int = attributes["edges"]
        self.name: str = attributes["name"]
        self.provenance: dict[str, Any] = attributes["partition"]
        self._windows: list[list[Window]] = [[] for _ in range(self.nparts)]
        for window in sorted(manifest.windows, key=lambda w: w.first):
            self._windows[window.part].append(window)
        self._extents: dict[tuple[int, int], list[Extent]] = {}
        self._arrays: dict[str, CheckedArray] = {}

    def __len__(self) -> int:
        return len(self.widths) - 1

    def __repr__(self) -> str:
        return (
            f"<dasksdnn.Store {str(self.path)!r}: {self.name}, {len(self)} layers, {self.edges:,} edges, {self.dtype}, "
            f"{self.nparts} part{'s' * (self.nparts != 1)} by {self.provenance.get('method')}, {len(self.manifest.windows)} windows>"
        )

    def _repr_html_(self) -> str:
        held = self.part_edges().tolist()
        rows = {
            "path": self.path,
            "network": f"{self.name}, {len(self):,} layers",
            "edges": f"{self.edges:,}",
            "values": self.dtype,
            "parts": f"{self.nparts:,} by {self.provenance.get('method')}",
            "windows": f"{len(self.manifest.windows):,}",
            "generation": f"{self.generation:,}",
        }
        bar = markup.stack(markup.named(held, "part"), "weights by part")
        return markup.card("dasksdnn.Store", markup.aside(markup.facts(rows), markup.chain(self.widths), bar))

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, which holds a digest of everything: two stores of one digest hold the same."""
        return self.manifest.digest

    @property
    def generation(self) -> int:
        """How many commits made this content: 0 as first written, one more at each checkpoint."""
        return self.manifest.generation

    @property
    def training(self) -> dict[str, Any] | None:
        """Where training stands, as its trainer put it; None where the store was not trained."""
        return self.manifest.training

    def __reduce__(self) -> Any:
        return reopen, (str(self.path), self.digest)

    # -- who owns what

    @cached_property
    def owner(self) -> tuple[Array, ...]:
        """The part that owns each neuron, one array a layer, inputs first."""
        flat = CheckedArray(self.location, "owner", self.manifest.owner, f"{self.path}: array 'owner'").read()
        if flat.size and not (flat.min() >= 0 and flat.max() < self.nparts):
            raise corrupt(f"{self.path}: array 'owner'", f"names a part outside 0 to {self.nparts - 1}")
        return tuple(np.split(flat, np.cumsum(self.widths)[:-1]))

    def order(self, k: int) -> Order:
        """Owner and order of the neurons of layer `k` (0: the inputs; 1 .. L: outputs of that layer)."""
        if k == 0:
            return input_order(self.owner[0], self.nparts)
        return self.as_order(k, tuple(self.rows(part, k - 1) for part in range(self.nparts)))

    def as_order(self, k: int, rows: tuple[Array, ...]) -> Order:
        """Check that the parts' rows of layer `k` (1 .. L) are those that 'owner' gives them, and make the order."""
        for part, ids in enumerate(rows):
            if not np.array_equal(np.sort(ids), np.flatnonzero(self.owner[k] == part)):
                raise self.fault(part, k - 1, "rows", "the rows are not those that 'owner' gives the part")
        return Order(self.owner[k], rows)

    def comm_plan(self) -> CommPlan:
        """Who sends which activations to whom before each layer; the same for every batch.

        Returns
        -------
        CommPlan

        Raises
        ------
        CorruptStoreError
            The parts' rows and columns do not fit each other.

        Examples
        --------
        >>> import dasksdnn as sdnn, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> net = sdnn.radixnet(64, 2)
        >>> store = sdnn.save(net, folder.name + "/net.zarr", partition=sdnn.partition(net, 2, method="block"))
        >>> store.comm_plan().layers[1].sent().tolist()
        [[0, 32], [32, 0]]
        >>> folder.cleanup()
        """
        from dasksdnn.store.panels import comm_plan

        return comm_plan(self)

    # -- windows and blocks

    def windows(self, part: int) -> list[Window]:
        """A part's windows, by layer."""
        return self._windows[part]

    def window(self, part: int, layer: int) -> Window:
        """The window that holds a part's block of a layer."""
        windows = self._windows[part]
        return windows[bisect_right([w.first for w in windows], layer) - 1]

    def array(self, window: Window, name: str) -> CheckedArray:
        """One array of a window, checked as it is read."""
        path = window.path(name)
        found = self._arrays.get(path)  # held here: another thread may clear them
        if found is None:
            found = CheckedArray(self.location, path, window.arrays[name], f"{self.path}: {window.label(name)}")
            if len(self._arrays) >= _OPEN_ARRAYS:
                self._arrays.clear()
            self._arrays[path] = found
        return found

    def extents(self, window: Window) -> list[Extent]:
        """Where each layer of a window stands in its arrays."""
        key = (window.part, window.number)
        if key not in self._extents:
            self._extents[key] = read_extents(self.array(window, "offsets"), window)
        return self._extents[key]

    def extent(self, part: int, layer: int) -> Extent:
        """Where one block stands in the arrays of its window."""
        window = self.window(part, layer)
        return self.extents(window)[layer - window.first]

    def rows(self, part: int, layer: int) -> Array:
        """Global neurons of a block's outputs, in the part's order."""
        window = self.window(part, layer)
        return self._ids(window, "rows", self.extent(part, layer).rows, self.widths[layer + 1])

    def columns(self, part: int, layer: int) -> Array:
        """Global neurons of a block's input panel."""
        window = self.window(part, layer)
        return self._ids(window, "columns", self.extent(part, layer).columns, self.widths[layer])

    def _ids(self, window: Window, name: str, span: tuple[int, int], limit: int) -> Array:
        array = self.array(window, name)
        ids = array.read(*span).astype(np.int64)
        if ids.size and ids.max() >= limit:
            raise corrupt(array.label, f"names neuron {ids.max()} of a layer of {limit}")
        return ids

    def block(self, part: int, layer: int) -> RowBlock:
        """Read block (layer, part); `layer` is 0-based."""
        self._check(part, layer)
        return next(self.blocks(part, layer, layer + 1))

    def blocks(self, part: int, first: int, last: int) -> Iterator[RowBlock]:
        """Read a part's blocks of layers `first` to `last` (0-based, `last` not included), which must lie in one window.

        What they share of each array is read once, and held until the last is made.
        """
        window = self.window(part, first)
        extents = self.extents(window)[first - window.first : last - window.first]
        low, high = extents[0], extents[-1]
        indptr = self.array(window, "indptr").read(low.indptr[0], high.indptr[1])
        indices = self.array(window, "indices").read(low.entries[0], high.entries[1])
        data = self.array(window, "data").read(low.entries[0], high.entries[1])
        bias = self.array(window, "bias").read(low.rows[0], high.rows[1])
        rows = self.array(window, "rows").read(low.rows[0], high.rows[1])
        columns = self.array(window, "columns").read(low.columns[0], high.columns[1])
        for k, extent in enumerate(extents, start=first):
            block = RowBlock(
                k,
                part,
                span(rows, extent.rows, low.rows),
                span(columns, extent.columns, low.columns),
                int(np.count_nonzero(self.owner[k] == part)),
                span(indptr, extent.indptr, low.indptr),
                span(indices, extent.entries, low.entries),
                span(data, extent.entries, low.entries),
                span(bias, extent.rows, low.rows),
            )
            if found := first_fault(block, self.widths[k], self.widths[k + 1]):
                raise self.fault(part, k, *found)
            yield block

    def fault(self, part: int, layer: int, name: str, what: str) -> CorruptStoreError:
        """Make the error for an array whose content is not sound at a block (layer, part)."""
        return corrupt(f"{self.path}: {self.window(part, layer).label(name)}", f"layer {layer + 1}: {what}")

    def _check(self, part: int, layer: int) -> None:
        if not 0 <= part < self.nparts or not 0 <= layer < len(self):
            raise InputError(
                f"{self.path} has parts 0 to {self.nparts - 1} and layers 0 to {len(self) - 1}, not part {part}, layer {layer}"
            )

    def block_nonzeros(self) -> Array:
        """Nonzeros of every block, shape (layers, parts)."""
        counts = np.zeros((len(self), self.nparts), np.int64)
        for window in self.manifest.windows:
            counts[window.first : window.last, window.part] = [
                e.entries[1] - e.entries[0] for e in self.extents(window)
            ]
        return counts

    # -- as other things

    def row_block(self, part: int, layer: int, kind: str = "scipy") -> Any:
        """One part's rows of a layer, over its input panel: the columns that the rows read, its own first.

        Parameters
        ----------
        part, layer : int
            From 0.
        kind : {"scipy", "sparse"}

        Returns
        -------
        scipy.sparse.csr_array or sparse.GCXS, of shape (rows, input panel)
            `store.rows(part, layer)` and `store.columns(part, layer)` are the neurons that these stand for.

        Raises
        ------
        InputError
            There is no such part, layer or kind.
        CorruptStoreError
            What was read is damaged.

        Examples
        --------
        >>> import dasksdnn as sdnn, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> net = sdnn.radixnet(64, 2)
        >>> store = sdnn.save(net, folder.name + "/net.zarr", partition=sdnn.partition(net, 2, method="block"))
        >>> store.row_block(part=0, layer=1).shape
        (32, 64)
        >>> folder.cleanup()
        """
        if kind not in ("scipy", "sparse"):
            raise InputError(f"kind {kind!r}: use 'scipy' or 'sparse'")
        csr = self.block(part, layer).tocsr()
        if kind == "scipy":
            return csr
        import sparse

        return sparse.GCXS.from_scipy_sparse(csr)

    def layer(self, k: int) -> Layer:
        """Layer `k` (0-based) in the network's own numbering, in memory.

        Parameters
        ----------
        k : int

        Returns
        -------
        Layer

        Raises
        ------
        InputError
            There is no such layer.
        CorruptStoreError
            What was read is damaged.

        Examples
        --------
        >>> import dasksdnn as sdnn, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> net = sdnn.radixnet(64, 2)
        >>> store = sdnn.save(net, folder.name + "/net.zarr", partition=sdnn.partition(net, 2, method="block"))
        >>> (store.layer(1).weights != net[1].weights).nnz
        0
        >>> folder.cleanup()
        """
        blocks = [self.block(part, k) for part in range(self.nparts)]
        self.as_order(k + 1, tuple(b.rows for b in blocks))
        row = np.concatenate([np.repeat(b.rows, np.diff(b.indptr)) for b in blocks])
        column = np.concatenate([b.columns[b.indices] for b in blocks])
        data = np.concatenate([b.data for b in blocks])
        bias = np.empty(self.widths[k + 1], self.dtype)
        for b in blocks:
            bias[b.rows] = b.bias
        weights = scipy.sparse.coo_array((data, (row, column)), shape=(self.widths[k + 1], self.widths[k])).tocsr()
        return Layer(weights, bias, self.activations[k], f"{self.path}, layer {k + 1}")

    @property
    def network(self) -> Network:
        """The network in its own numbering; its layers are read when they are asked for.

        Examples
        --------
        >>> import dasksdnn as sdnn, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = sdnn.save(sdnn.radixnet(64, 2), folder.name + "/net.zarr")
        >>> store.network
        <dasksdnn.Network 'radixnet-64': 64 x 2, 4,096 edges, float32>
        >>> folder.cleanup()
        """
        return Network(self.widths, self.layer, self.dtype, self.name, self.edges, self.digest)

    def dask_layer(self, k: int, order: str = "parts", kind: str = "gcxs") -> Any:
        """Layer `k` (0-based) as a lazy `dask.array` of shape (outputs, inputs) whose chunks are sparse row blocks.

        Parameters
        ----------
        k : int
        order : {"parts", "original"}
            "parts": rows and columns in part-major numbering, one chunk a part (of no rows where the part is
            empty; a layer of one neuron is one chunk), so that layers chain by `@`. "original": the network's own
            numbering, one chunk.
        kind : {"gcxs", "coo"}
            Chunks are `sparse.GCXS` or `sparse.COO`. Multiply GCXS with dense panels, `W1 @ (W0 @ x)`, fastest with the
            panel in one chunk, `W1 @ (W0 @ x).rechunk(-1)`: else dask cuts W1 by columns to fit the panel's. To multiply
            layers with each other take COO: dask's `@` of two GCXS arrays fails, or is wrong without an error (slices
            of a product of two GCXS are, in sparse 0.19).

        Returns
        -------
        dask.array

        Raises
        ------
        InputError
            There is no such layer, order or kind.

        Examples
        --------
        >>> import dasksdnn as sdnn, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> net = sdnn.radixnet(64, 2)
        >>> store = sdnn.save(net, folder.name + "/net.zarr", partition=sdnn.partition(net, 2, method="block"))
        >>> store.dask_layer(1).chunks
        ((32, 32), (64,))
        >>> folder.cleanup()
        """
        from dasksdnn.store.lazy import dask_layer

        return dask_layer(self, k, order, kind)

    def part_edges(self) -> Array:
        """Weights of each part over all layers; nothing is read.

        Returns
        -------
        int64 array of shape (nparts,)

        Examples
        --------
        >>> import dasksdnn as sdnn, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> net = sdnn.radixnet(64, 2)
        >>> store = sdnn.save(net, folder.name + "/net.zarr", partition=sdnn.partition(net, 2, method="block"))
        >>> store.part_edges().tolist()
        [2048, 2048]
        >>> folder.cleanup()
        """
        held: Array = np.zeros(self.nparts, np.int64)
        for window in self.manifest.windows:
            held[window.part] += window.arrays["data"].shape[0]
        return held

    def stored_bytes(self) -> int:
        """Bytes that the store takes on the disk."""
        return sum(Path(folder, name).stat().st_size for folder, _, names in os.walk(self.path) for name in names)

    def iter_windows(self) -> Iterator[Window]:
        """All windows, part by part."""
        return iter(self.manifest.windows)


def open_store(path: str | Path, generation: int | None = None) -> Store:
    """Open a store for reading.

    Parameters
    ----------
    path : str or Path
    generation : int, optional
        An earlier generation, of those that training has kept (`generations`); by default the newest.

    Returns
    -------
    Store

    Raises
    ------
    StoreError
        There is no store, or no such generation, or it is of a newer version.
    CorruptStoreError
        Its metadata or manifest is damaged or missing.

    Examples
    --------
    >>> import dasksdnn as sdnn, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> saved = sdnn.save(sdnn.radixnet(64, 2), folder.name + "/net.zarr")
    >>> sdnn.open_store(folder.name + "/net.zarr").digest == saved.digest
    True
    >>> folder.cleanup()
    """
    location = locate(path)
    attributes = group_attributes(location, "", path)
    check_version(attributes, path)
    record = group_attributes(location, "manifest", path)
    if generation in (None, record.get("generation")):
        return Store(path, location, read_manifest(record, attributes, path))
    if generation not in (kept := generations(path)):
        there = ", ".join(map(str, kept))
        raise StoreError(f"{path} has no generation {generation}: open one of those that it keeps: {there}")
    manifest = read_manifest(
        group_attributes(location, checkpoint_path(generation), path), attributes, f"{path}, generation {generation}"
    )
    if manifest.generation != generation:
        raise CorruptStoreError(
            f"{path}: the manifest of generation {generation} is that of {manifest.generation}; restore it from a copy"
        )
    return Store(path, location, manifest)


def reopen(path: str, digest: str) -> Store:
    """Open a store that was open elsewhere, as in a worker, at the same generation; it must still be there."""
    store = open_store(path)
    if store.digest == digest:
        return store
    for number in generations(path)[:-1]:
        with suppress(CorruptStoreError):
            store = open_store(path, number)
            if store.digest == digest:
                return store
    raise StoreError(f"{path} was replaced since it was opened: open it again with open_store")
