"""Writing a store layer by layer: blocks are cut by the partition, gathered into windows, and sealed by the manifest.

    layer k --cut--> block (k, 0) --> open window of part 0 --(about 64 MiB)--> structure + state-000000
                     block (k, 1) --> open window of part 1 ...

After the last layer all windows are flushed, then comes the manifest, then the rename that makes the store appear.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from dasksdnn.atomic import replacing
from dasksdnn.errors import InputError
from dasksdnn.events import Listener, Progress, ignore
from dasksdnn.network import Array, Network
from dasksdnn.store.blocks import RowBlock, cut, input_order, row_order
from dasksdnn.store.encoding import ArrayEntry, write_array
from dasksdnn.store.layout import (
    FORMAT,
    VERSION,
    block_bytes,
    index_dtype,
    owner_dtype,
    state_path,
    structure_path,
    window_bytes,
)
from dasksdnn.store.manifest import Manifest, Window
from dasksdnn.store.reader import Store, open_store

if TYPE_CHECKING:
    from dasksdnn.partition.partition import Partition


def save(
    net: Network,
    path: str | Path,
    *,
    partition: Partition | None = None,
    overwrite: bool = False,
    window: int | None = None,
    listener: Listener = ignore,
) -> Store:
    """Write a network as a store, laid out by a partition.

    Layers are loaded one at a time, so a network larger than memory can be written. The store appears under its name
    when it is complete; interrupted at any moment, nothing or the old store stands there.

    Parameters
    ----------
    net : Network
    path : str or Path
        Folder to make.
    partition : Partition, optional
        Who owns what; by default one part owns all.
    overwrite : bool
        Replace what stands at `path`.
    window : int, optional
        Decoded bytes of a window; by default 64 MiB, less where many parts are written at once.
    listener : callable
        Told of each layer written.

    Returns
    -------
    Store
        The new store, opened.

    Raises
    ------
    OutputExistsError, InputError, StoreError
    """
    nparts = partition.nparts if partition else 1
    owner = partition.owner if partition else tuple(np.zeros(n, owner_dtype(1)) for n in net.widths)
    if window is not None and window < 1:
        raise InputError(f"window {window} is not usable: give a number of bytes, or leave it out")
    if [o.size for o in owner] != list(net.widths):
        raise InputError(
            f"the partition is of layers of {[o.size for o in owner][:4]}... neurons, the network has "
            f"{list(net.widths)[:4]}...: partition this network"
        )
    with replacing(path, overwrite=overwrite) as temporary:
        store = zarr.storage.LocalStore(temporary)
        writer = _Writer(store, net, nparts, window or window_bytes(nparts))
        writer.run(owner, listener)
        writer.seal(owner, partition)
    return open_store(path)


class _Writer:
    """The open windows of all parts, and the list of those that are written."""

    def __init__(self, store: Any, net: Network, nparts: int, limit: int) -> None:
        self.store, self.net, self.nparts, self.limit = store, net, nparts, limit
        self.open: list[list[RowBlock]] = [[] for _ in range(nparts)]
        self.bytes = [0] * nparts
        self.windows: list[Window] = []
        self.count = [0] * nparts
        self.activations: list[str] = []
        self.edges = 0

    def run(self, owner: tuple[Array, ...], listener: Listener) -> None:
        before = input_order(owner[0], self.nparts)
        for k, layer in enumerate(self.net):
            after = row_order(layer, owner[k + 1], self.nparts)
            for block in cut(k, layer, before, after):
                self.add(block)
            self.activations.append(str(layer.activation))
            self.edges += layer.edges
            before = after
            listener(Progress("write", k + 1, len(self.net), "layers"))
        for part in range(self.nparts):
            self.flush(part)

    def add(self, block: RowBlock) -> None:
        part = block.part
        size = block_bytes(
            block.rows.size, block.columns.size, block.data.size, block.data.dtype, index_dtype(block.columns.size)
        )
        if self.open[part] and self.bytes[part] + size > self.limit:
            self.flush(part)
        self.open[part].append(block)
        self.bytes[part] += size

    def flush(self, part: int) -> None:
        blocks, self.open[part], self.bytes[part] = self.open[part], [], 0
        if not blocks:
            return
        number, self.count[part] = self.count[part], self.count[part] + 1
        arrays = write_structure(self.store, blocks, lambda name: structure_path(part, number, name))
        state = {"data": _concatenate([b.data for b in blocks]), "bias": _concatenate([b.bias for b in blocks])}
        for name, values in state.items():
            arrays[name] = write_array(self.store, state_path(part, number, 0, name), values)
        self.windows.append(Window(part, number, blocks[0].layer, blocks[-1].layer + 1, 0, arrays))

    def seal(self, owner: tuple[Array, ...], partition: Partition | None) -> None:
        attributes = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.net.name,
            "widths": list(self.net.widths),
            "inputs": list(range(len(self.net))),
            "activations": self.activations,
            "dtype": self.net.dtype.name,
            "nparts": self.nparts,
            "edges": self.edges,
            "partition": _provenance(partition),
        }
        entry = write_array(self.store, "owner", np.concatenate([o.astype(owner_dtype(self.nparts)) for o in owner]))
        windows = tuple(sorted(self.windows, key=lambda w: (w.part, w.number)))
        manifest = Manifest(0, attributes, entry, windows)
        zarr.open_group(self.store, mode="r+").update_attributes(attributes)
        zarr.create_group(self.store, path="manifest", attributes=manifest.as_json())


def _provenance(partition: Partition | None) -> dict[str, Any]:
    """How the partition was made, and what it was found to cost."""
    if partition is None:
        return {"method": "none"}
    made = {"method": partition.method, "epsilon": partition.epsilon, "seed": partition.seed}
    return {**made, **{name: getattr(partition, name) for name in ("volume", "messages", "max_send", "imbalance")}}


def write_structure(store: Any, blocks: list[RowBlock], path: Callable[[str], str]) -> dict[str, ArrayEntry]:
    """Write the pattern of consecutive blocks of one part; `path` names the place of each array."""
    sizes = [(b.indptr.size, b.data.size, b.rows.size, b.columns.size) for b in blocks]
    position = index_dtype(max(b.columns.size for b in blocks))
    arrays = {
        "offsets": np.concatenate([np.zeros((1, 4), np.int64), np.cumsum(np.array(sizes, np.int64), axis=0)]),
        "indptr": _concatenate([b.indptr.astype(np.int64) for b in blocks]),
        "indices": _concatenate([b.indices.astype(position) for b in blocks]),
        "rows": _concatenate([b.rows.astype(np.uint32) for b in blocks]),
        "columns": _concatenate([b.columns.astype(np.uint32) for b in blocks]),
    }
    return {name: write_array(store, path(name), values) for name, values in arrays.items()}


def _concatenate(arrays: list[Array]) -> Array:
    return np.concatenate(arrays)
