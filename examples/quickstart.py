"""Partition, store and run a sparse network on real handwritten digits, in Python. Takes about ten seconds.

python examples/quickstart.py
"""

import tempfile
from pathlib import Path

import numpy as np

import dasksdnn as sdnn
from dasksdnn.sources.images import digits

with tempfile.TemporaryDirectory() as folder:
    # A RadiX-Net of 1,024 neurons a layer. It is a recipe: layers are made when they are asked for.
    net = sdnn.radixnet(neurons=1024, layers=24)
    print(net)

    # Rows to parts: little moves, all are equally loaded. The recount shares no code with the partitioners.
    part = sdnn.partition(net, nparts=8, effort="fast")
    chance = sdnn.partition(net, nparts=8, method="random")
    print(part)
    print(f"random rows would send {chance.volume / part.volume:.1f} times as much")

    # A store, laid out by the partition.
    store = sdnn.save(net, Path(folder, "net.zarr"), partition=part)
    print(store)

    # How it would run within a budget, and what else was considered.
    x = digits(side=32)
    print(sdnn.plan(store, x, memory="1 GiB"))

    # The streaming path carries the memory promise; it writes a Zarr array and finds the categories.
    result = sdnn.infer(store, x, out=Path(folder, "y.zarr"), memory="1 GiB")
    print(result)

    # Without `out`, a lazy dask.array whose chunks are batches.
    y = sdnn.infer(store, x)
    alive = np.flatnonzero(y.any(axis=1).compute())
    assert np.array_equal(alive, result.categories)
    print(f"{alive.size} of {x.shape[0]} digits have a non-zero output")
