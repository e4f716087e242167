"""Inference as a lazy `dask.array`: one task a chunk of samples, the same engine in each, the weights shared by all.

x chunk (samples, inputs) --task: local engine--> y chunk (samples, outputs)
                          --task: parts split, by a client of its worker's--> y chunk
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import numpy as np
import scipy.sparse

from dasksdnn.engines import inference, session
from dasksdnn.engines.sinks import CHUNK_BYTES, ArraySink
from dasksdnn.events import Listener
from dasksdnn.network import Array
from dasksdnn.store.reader import Store, reopen


def lazy_infer(
    store: Store,
    x: Any,
    dataset: Any,
    *,
    memory: Any,
    threads: int | None,
    batch: int | None,
    listener: Listener,
    client: Any = None,
    strategy: str | None = None,
) -> Any:
    """See `infer`. `x` is what the user gave, `dataset` the same as a Dataset."""
    import dask.array as da

    outputs = store.widths[-1]
    if isinstance(x, da.Array):
        samples = x.rechunk({1: -1})
    else:
        rows = batch or max(
            1, min(int(dataset.samples), 32 * CHUNK_BYTES // (max(outputs, store.widths[0]) * store.dtype.itemsize))
        )
        samples = _chunks(x, dataset, rows)
    if batch:
        samples = samples.rechunk({0: batch})
    # A plan for one batch refuses a budget that cannot work now, not when the array is computed.
    widest = max(samples.chunks[0], default=0)
    if client is None:
        inference.plan(store, widest, memory=memory, threads=threads, listener=listener)
    else:
        from dasksdnn.engines.cluster.infer import Asked, check_chunk, check_parts

        asked = Asked.of(memory, threads, strategy)
        if strategy == "parts":
            check_parts(client, store)
        else:
            check_chunk(client, store, widest, asked)
    return da.map_blocks(
        _split_chunk if strategy == "parts" else _infer_chunk,
        samples,
        path=str(store.path.absolute()),
        digest=store.digest,
        memory=memory,
        threads=threads,
        dtype=store.dtype,
        chunks=(samples.chunks[0], (outputs,)),
        meta=np.empty((0, 0), store.dtype),
        name=None,
    )


def _chunks(x: Any, dataset: Any, rows: int) -> Any:
    """A dataset as a dask.array whose chunks hold their own rows only, or are read when they are needed."""
    import dask.array as da

    if type(x) is np.ndarray:
        return da.from_array(x, chunks=(rows, -1))
    starts = range(0, max(1, dataset.samples), rows)
    spans = [(start, min(start + rows, dataset.samples)) for start in starts]
    name = f"sdnn-dataset-{uuid4().hex}"
    sliced = scipy.sparse.issparse(x)
    graph: dict[Any, Any] = {
        (name, i, 0): (_given, dataset.read(*span)) if sliced else (dataset.read, *span) for i, span in enumerate(spans)
    }
    sizes = tuple(stop - start for start, stop in spans)
    return da.Array(graph, name, chunks=(sizes, (dataset.features,)), meta=np.empty((0, 0), np.float32))


def _given(rows: Any) -> Any:
    return rows


_stores: dict[tuple[str, str], Store] = {}


def opened(path: str, digest: str) -> Store:
    """The store of a path as the graph was built for it, opened once a process; it must still be there."""
    store = _stores.get((path, digest))  # held here: another thread may clear them
    if store is None:
        store = reopen(path, digest)
        _stores.clear()
        _stores[path, digest] = store
    return store


def _infer_chunk(x: Any, path: str, digest: str, memory: Any, threads: int | None) -> Array:
    from dasksdnn.sources.datasets import as_dataset

    store = opened(path, digest)
    made: list[Array] = []

    def sink() -> ArraySink:
        made.append(np.zeros((x.shape[0], store.widths[-1]), store.dtype))
        return ArraySink(made[0])

    if not x.shape[0]:
        return np.zeros((0, store.widths[-1]), store.dtype)
    dataset = as_dataset(x)
    # Each of the scheduler's other threads may hold a chunk that waits, and one that is done.
    held = int(dataset.block_bytes(dataset.samples))
    room = (session.scheduler().concurrency - 1) * (held + x.shape[0] * store.widths[-1] * store.dtype.itemsize)
    inference.stream_kept(store, dataset, sink, memory=memory, threads=threads, room=room, waiting=held)
    return made[0]


def _split_chunk(x: Any, path: str, digest: str, memory: Any, threads: int | None) -> Array:
    """A chunk through the parts on all workers; its own thread is given back meanwhile."""
    from distributed import worker_client

    from dasksdnn.engines.cluster.infer import Asked, stream_on
    from dasksdnn.sources.datasets import as_dataset

    store = opened(path, digest)
    out: Array = np.zeros((x.shape[0], store.widths[-1]), store.dtype)
    if x.shape[0]:
        with worker_client() as client:
            stream_on(client, store, as_dataset(x), Asked.of(memory, threads, "parts"), out=out)
    return out
