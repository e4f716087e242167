"""Inference over a store in plain dask.array: the definition that any Dask user can read, and the engine agrees.

    python examples/plain_dask.py

Each layer of a store reads as a dask.array whose chunks are `sparse.GCXS` row blocks, one a part.
"""

import tempfile
from pathlib import Path

import dask
import dask.array as da
import numpy as np

import dasksdnn as sdnn

with tempfile.TemporaryDirectory() as folder:
    net = sdnn.radixnet(neurons=256, layers=6, bias=-0.1)
    store = sdnn.save(net, Path(folder, "net.zarr"), partition=sdnn.partition(net, nparts=4))
    x = (np.random.default_rng(0).random((500, 256)) < 0.4).astype(np.float32)

    y = da.from_array(x.T, chunks=(-1, 100))  # neurons x samples
    for k in range(len(store)):
        w = store.dask_layer(k, order="original")
        bias, clip = store.layer(k).bias[:, None], store.activations[k].parameter
        y = da.clip(da.map_blocks(np.asarray, w @ y, dtype="f4") + bias, 0, clip)

    with dask.config.set(scheduler="synchronous"):
        plain = y.T.compute()
        engine = sdnn.infer(store, x).compute()
    np.testing.assert_allclose(plain, engine, rtol=1e-4, atol=1e-5)
    print(f"agree: {np.count_nonzero(engine.any(axis=1))} of 500 samples survive")
