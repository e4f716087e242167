"""A trained network in its store, which lives as long as its estimator, travels in its pickles, and is run here.

store --pickle--> layers in memory --first use of the copy--> temporary store
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from dasksdnn.engines.inference import infer
from dasksdnn.network import Array, Network
from dasksdnn.partition.partition import Partition
from dasksdnn.sources.datasets import as_dataset
from dasksdnn.sources.scratch import Scratch
from dasksdnn.store.reader import Store, open_store
from dasksdnn.store.writer import save

_writing = RLock()  # one for all: it is held rarely, and a lock of one's own could not be pickled


class Trained:
    """A network in its store.

    What is pickled is its layers, in memory; the copy writes them to a temporary store when one is needed.
    """

    def __init__(self, store: Store, scratch: Scratch | None = None) -> None:
        self._store: Store | None = store
        self._copy: dict[str, Any] = {}
        #: The folder of a temporary store, which goes when nobody holds this any more.
        self.scratch = scratch

    @classmethod
    def write(
        cls, net: Network, path: str | os.PathLike[str] | None, partition: Partition | None, *, overwrite: bool
    ) -> Trained:
        """Save a network at `path`, or in a temporary folder."""
        scratch = Scratch(None, "estimator") if path is None else None
        place = scratch.path / "net.zarr" if scratch else Path(path or "")
        return cls(save(net, place, partition=partition, overwrite=overwrite), scratch)

    @property
    def store(self) -> Store:
        """The store, as of its last training here."""
        with _writing:
            store = self._store or self._written_anew()
            self._store = store
            return store

    def _written_anew(self) -> Store:
        copy = self._copy
        net = Network.from_layers(copy["layers"], copy["name"])
        part = None if copy["owner"] is None else Partition.from_owner(net, copy["owner"], copy["nparts"])
        written = Trained.write(net, None, part, overwrite=False)
        self.scratch, self._copy = written.scratch, {}
        return written.store

    def reload(self) -> None:
        """Take what training has made of the store."""
        self._store = open_store(self.store.path)

    def __getstate__(self) -> dict[str, Any]:
        if self._store is None:
            return self._copy
        net, parts = self._store.network, self._store.nparts
        layers = [replace(layer, name=f"layer {k}") for k, layer in enumerate(net, start=1)]
        return {"layers": layers, "name": net.name, "nparts": parts, "owner": self._store.owner if parts > 1 else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._store, self.scratch, self._copy = None, None, state


def outputs(trained: Trained, x: Any, finish: Callable[[Array], Array], **how: Any) -> Any:
    """Run checked samples through a network, and `finish` each block of outputs, (samples, outputs).

    Returns
    -------
    ndarray, or a lazy dask.array where `x` is one
        With as many rows as `x`.
    """
    store = trained.store
    if type(x).__module__.partition(".")[0] != "dask":
        out: Array = np.empty((int(as_dataset(x).samples), store.widths[-1]), store.dtype)
        infer(store, x, out=out, **how)
        return finish(out)
    meta = finish(np.empty((0, store.widths[-1]), store.dtype))
    # The graph holds the temporary store's folder, so that the store is there even if the estimator is not.
    return infer(store, x, **how).map_blocks(
        _finished, finish, keep=trained.scratch, drop_axis=[] if meta.ndim == 2 else 1, dtype=meta.dtype, meta=meta
    )


def _finished(block: Array, finish: Callable[[Array], Array], keep: Scratch | None) -> Array:
    return finish(block)
