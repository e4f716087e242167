"""Writing a store layer by layer: blocks are cut by the partition, gathered into windows, and sealed by the manifest.

    layer k --cut--> block (k, 0) --> open window of part 0 --(about 64 MiB)--> structure + state-000000
                     block (k, 1) --> open window of part 1 ...

With a journal, windows are noted as they are written, and noted ones are not written again (`store.resuming`).
After the last layer all windows are flushed, then comes the manifest, then the rename that makes the store appear.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

import dasksdnn
from dasksdnn.atomic import replacing
from dasksdnn.errors import InputError
from dasksdnn.events import Listener, Progress, announce
from dasksdnn.network import Array, Network
from dasksdnn.partition.digests import content_digest
from dasksdnn.store.blocks import RowBlock, cut, input_order, row_order
from dasksdnn.store.encoding import ArrayEntry, canonical_json, write_array
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
from dasksdnn.store.resuming import Journal, discard, resuming

if TYPE_CHECKING:
    from dasksdnn.partition.partition import Partition


def save(
    net: Network,
    path: str | Path,
    *,
    partition: Partition | None = None,
    overwrite: bool = False,
    window: int | None = None,
    resume: bool = False,
    listener: Listener = announce,
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
    resume : bool
        Go on with what an earlier call with `resume` left when it was interrupted or killed, from the first layer that is
        not in windows on the disk; the store is the same, byte for byte. Interrupted, keep what is written beside
        `path`, in `.NAME.resumable`. It must be the same network, partition and window, else `StoreError`. A network
        that is not of a store is read once more, to tell that it is the same.
    listener : callable
        Told of each layer written.

    Returns
    -------
    Store
        The new store, opened.

    Raises
    ------
    OutputExistsError, InputError, StoreError

    Examples
    --------
    >>> import dasksdnn as sdnn, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> net = sdnn.radixnet(64, 2)
    >>> store = sdnn.save(net, folder.name + "/net.zarr", partition=sdnn.partition(net, 2, method="block"))
    >>> len(store), store.nparts
    (2, 2)
    >>> folder.cleanup()
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
    limit = window or window_bytes(nparts)
    if resume:
        identity = _identity(net, owner, partition, limit)
        with resuming(Path(path), identity, nparts, overwrite=overwrite) as journal:
            _write(journal.store, net, owner, partition, limit, listener, journal)
    else:
        with replacing(path, overwrite=overwrite) as temporary:
            _write(temporary, net, owner, partition, limit, listener)
        discard(Path(path))
    return open_store(path)


def _write(
    folder: Path,
    net: Network,
    owner: tuple[Array, ...],
    partition: Partition | None,
    limit: int,
    listener: Listener,
    journal: Journal | None = None,
) -> None:
    writer = _Writer(zarr.storage.LocalStore(folder), net, partition.nparts if partition else 1, limit, journal)
    writer.run(owner, listener)
    writer.seal(owner, partition)


def _identity(net: Network, owner: tuple[Array, ...], partition: Partition | None, limit: int) -> dict[str, str]:
    """All that decides the bytes of a store."""
    parts = hashlib.sha256(canonical_json(_provenance(partition)))
    for part in owner:
        parts.update(part.astype("<i4").data)
    return {
        "release of dasksdnn or Zarr": f"{dasksdnn.__version__}, {zarr.__version__}",
        "network": content_digest(net),
        "partition": parts.hexdigest(),
        "window": str(limit),
    }


class _Writer:
    """The open windows of all parts, and the list of those that are written."""

    def __init__(self, store: Any, net: Network, nparts: int, limit: int, journal: Journal | None) -> None:
        self.store, self.net, self.nparts, self.limit, self.journal = store, net, nparts, limit, journal
        self.open: list[list[RowBlock]] = [[] for _ in range(nparts)]
        self.bytes = [0] * nparts
        self.windows: list[Window] = list(journal.windows) if journal else []
        self.count = [0] * nparts
        #: The first layer of each part that is not in a window on the disk.
        self.reached = [0] * nparts
        for done in self.windows:
            self.count[done.part], self.reached[done.part] = done.number + 1, done.last
        #: Activation and edges of each layer, as far as they are known.
        self.layers = journal.layers[: min(self.reached)] if journal else []

    def run(self, owner: tuple[Array, ...], listener: Listener) -> None:
        first = len(self.layers)
        before = (
            row_order(self.net[first - 1], owner[first], self.nparts) if first else input_order(owner[0], self.nparts)
        )
        for k in range(first, len(self.net)):
            layer = self.net[k]
            after = row_order(layer, owner[k + 1], self.nparts)
            for block in cut(k, layer, before, after):
                self.add(block)
            self.layers.append((str(layer.activation), layer.edges))
            if self.journal:
                self.journal.add_layer(k, *self.layers[-1])
            before = after
            listener(Progress("write", k + 1, len(self.net), "layers"))
        for part in range(self.nparts):
            self.flush(part)

    def add(self, block: RowBlock) -> None:
        part = block.part
        if block.layer < self.reached[part]:
            return
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
        if self.journal:
            self.journal.add_window(self.windows[-1])

    def seal(self, owner: tuple[Array, ...], partition: Partition | None) -> None:
        attributes = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.net.name,
            "widths": list(self.net.widths),
            "inputs": list(range(len(self.net))),
            "activations": [activation for activation, _ in self.layers],
            "dtype": self.net.dtype.name,
            "nparts": self.nparts,
            "edges": sum(edges for _, edges in self.layers),
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
    if partition.effort is not None:
        made |= {"effort": partition.effort, "objective": partition.objective, "repeatable": partition.repeatable}
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
