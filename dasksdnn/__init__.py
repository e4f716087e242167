"""Sparse deep neural networks, partitioned by hypergraph, stored in Zarr, run out of core.

Examples
--------
>>> import dasksdnn as sdnn
>>> net = sdnn.radixnet(neurons=1024, layers=120)
>>> net.edges
3932160
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import dasksdnn.partition
import dasksdnn.plan

__version__ = "0.1.0.dev0"

# `sdnn.partition` and `sdnn.plan` are functions. The packages of the same names are imported here, once and while they
# are empty, so that no later import puts them back in the functions' place.
del globals()["partition"], globals()["plan"]

#: Public name -> the module that defines it. Imported on first use, so that `import dasksdnn` is quick.
_HOME = {
    "Activation": "network",
    "DaskSDNNError": "errors",
    "Layer": "network",
    "Network": "network",
    "Partition": "partition.partition",
    "SparseDNNClassifier": "estimator",
    "SparseDNNRegressor": "estimator",
    "Store": "store.reader",
    "community": "sources.generators",
    "export": "exports.exporting",
    "from_arrays": "sources.arrays",
    "from_torch": "sources.torch",
    "graphchallenge": "sources.graphchallenge",
    "initialise": "training.initial",
    "infer": "engines.inference",
    "open_dataset": "sources.datasets",
    "open_store": "store.reader",
    "partition": "partition.partition",
    "plan": "engines.inference",
    "radixnet": "sources.generators",
    "progress": "diagnostics.progress",
    "random_network": "sources.generators",
    "random_sparse": "training.initial",
    "save": "store.writer",
    "to_torch": "exports.torch",
    "train": "training.loop",
    "verify": "store.verify",
}

#: Likewise, modules.
_MODULES = {"plots": "diagnostics.plots"}

__all__ = ["__version__", *_HOME, *_MODULES]

if TYPE_CHECKING:
    from dasksdnn.diagnostics import plots
    from dasksdnn.diagnostics.progress import progress
    from dasksdnn.engines.inference import infer, plan
    from dasksdnn.errors import DaskSDNNError
    from dasksdnn.estimator import SparseDNNClassifier, SparseDNNRegressor
    from dasksdnn.exports.exporting import export
    from dasksdnn.exports.torch import to_torch
    from dasksdnn.network import Activation, Layer, Network
    from dasksdnn.partition.partition import Partition, partition
    from dasksdnn.sources.arrays import from_arrays
    from dasksdnn.sources.datasets import open_dataset
    from dasksdnn.sources.generators import community, radixnet, random_network
    from dasksdnn.sources.graphchallenge import graphchallenge
    from dasksdnn.sources.torch import from_torch
    from dasksdnn.store.reader import Store, open_store
    from dasksdnn.store.verify import verify
    from dasksdnn.store.writer import save
    from dasksdnn.training.initial import initialise, random_sparse
    from dasksdnn.training.loop import train


def __getattr__(name: str) -> Any:
    value: Any
    if name in _MODULES:
        value = import_module(f"dasksdnn.{_MODULES[name]}")
    elif name in _HOME:
        value = getattr(import_module(f"dasksdnn.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'dasksdnn' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
