"""One layer of a store as a lazy `dask.array` whose chunks are sparse row blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from dasksdnn.errors import InputError
from dasksdnn.store.reader import Store, reopen


def dask_layer(store: Store, k: int, order: str, kind: str) -> Any:
    """See `Store.dask_layer`."""
    import dask.array as da
    from dask.base import tokenize

    if order not in ("parts", "original"):
        raise InputError(f"order {order!r}: use 'parts' or 'original'")
    if kind not in ("gcxs", "coo"):
        raise InputError(f"kind {kind!r}: use 'gcxs' or 'coo'")
    if not 0 <= k < len(store):
        raise InputError(f"{store.path} has layers 0 to {len(store) - 1}, not {k}")
    outputs, inputs = store.widths[k + 1], store.widths[k]
    parts: list[int | None]
    if order == "original":
        parts, rows = [None], (outputs,)
    elif outputs == 1:  # dask takes an axis of one element for one to broadcast, whatever its chunks
        parts, rows = [int(store.owner[k + 1][0])], (1,)
    else:
        parts, rows = list(range(store.nparts)), np.bincount(store.owner[k + 1], minlength=store.nparts).tolist()
    place = (str(store.path), store.digest)
    name = f"sdnn-layer-{tokenize(*place, k, order, kind)}"
    graph = {(name, i, 0): (_rows, *place, k, part, kind) for i, part in enumerate(parts)}
    meta = _as_sparse(scipy.sparse.csr_array((0, 0), dtype=store.dtype), kind)
    return da.Array(graph, name, chunks=(tuple(rows), (inputs,)), dtype=store.dtype, meta=meta)


def _rows(path: str, digest: str, k: int, part: int | None, kind: str) -> Any:
    """Rows of one part, columns in part-major numbering; or the whole layer in the network's own numbering."""
    store = reopen(path, digest)
    if part is None:
        return _as_sparse(store.layer(k).weights, kind)
    block = store.block(part, k)
    indices = store.order(k).position[block.columns][block.indices]
    csr = scipy.sparse.csr_array((block.data, indices, block.indptr), shape=(block.rows.size, store.widths[k]))
    csr.sort_indices()
    return _as_sparse(csr, kind)


def _as_sparse(csr: Any, kind: str) -> Any:
    import sparse

    return {"gcxs": sparse.GCXS, "coo": sparse.COO}[kind].from_scipy_sparse(csr)
