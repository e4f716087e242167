"""Make the golden stores of the current format version that are not there yet; commit them, and never make them again.

    python storage/golden/make.py

Beside each store NAME.zarr stands NAME.npz: the layers, owners, samples and outputs that it must give.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy.sparse

import dasksdnn as sdnn
from dasksdnn.network import Activation, Layer, Network
from dasksdnn.partition.partition import Partition
from dasksdnn.store.checkpoints import commit
from dasksdnn.store.layout import VERSION
from dasksdnn.store.manifest import Window
from dasksdnn.store.reader import Store

FOLDER = Path(__file__).resolve().parent / f"v{VERSION}"


def mixed() -> tuple[Network, Partition]:
    """Three parts, of which one owns nothing; every activation; empty rows and columns; stored zeros; float64."""
    rng = np.random.default_rng(1)
    widths = (9, 7, 12, 5, 1, 8, 6)
    texts = ("relu", "clip:1.25", f"leaky_relu:{1 / 3!r}", "identity", "tanh", "sigmoid")
    layers = []
    for inputs, outputs, text in zip(widths[:-1], widths[1:], texts, strict=True):
        pattern = rng.random((outputs, inputs)) < 0.5
        if outputs > 1:
            pattern[rng.integers(outputs)] = False
            pattern[:, rng.integers(inputs)] = False
        weights = scipy.sparse.csr_array(pattern * rng.uniform(-1, 1, pattern.shape))
        if weights.nnz:
            weights.data[0] = 0.0
        layers.append(Layer(weights, rng.uniform(-0.5, 0.5, outputs), Activation.parse(text)))
    net = Network.from_layers(layers, "golden-mixed")
    return net, Partition.from_owner(net, [2 * rng.integers(0, 2, n) for n in widths], 3)


def radixnet() -> tuple[Network, None]:
    """One part, float32, constant weights that compress well."""
    return sdnn.radixnet(32, 4), None


def trained() -> tuple[Network, Partition]:
    """Two parts, float32; to be given new values three times (`train`)."""
    rng = np.random.default_rng(3)
    widths = (8, 11, 6, 4)
    layers = []
    for inputs, outputs in pairwise(widths):
        weights = (rng.random((outputs, inputs)) < 0.5) * rng.uniform(-1, 1, (outputs, inputs))
        bias = rng.uniform(-0.5, 0.5, outputs).astype(np.float32)
        layers.append(Layer(scipy.sparse.csr_array(weights.astype(np.float32)), bias, Activation.parse("relu")))
    net = Network.from_layers(layers, "golden-trained")
    return net, Partition.from_owner(net, [rng.integers(0, 2, n) for n in widths], 2)


def train(store: Store) -> Network:
    """Halve all values three times, with moments that are the squares of what they belong to; keep 0, 2 and 3."""

    def halved(window: Window, name: str) -> np.ndarray:
        values = store.array(window, name.partition("_")[0]).read() / 2
        return values**2 if name.endswith("_first") else values

    for epoch in (1, 2, 3):
        moments = ("data_first", "bias_first")
        store = commit(store, halved, extra=moments, training={"epoch": epoch, "loss": 0.1 / epoch}, protect=[0])
    return store.network


def forward(net: Network, x: np.ndarray) -> np.ndarray:
    """Outputs (samples, outputs), in plain NumPy."""
    functions = {
        "identity": lambda z, a: z,
        "relu": lambda z, a: np.maximum(z, 0),
        "clip": lambda z, a: np.clip(z, 0, a),
        "leaky_relu": lambda z, a: np.where(z > 0, z, a * z),
        "sigmoid": lambda z, a: 1 / (1 + np.exp(-z)),
        "tanh": lambda z, a: np.tanh(z),
    }
    y = x.T
    for layer in net:
        z = layer.weights.toarray() @ y + layer.bias[:, None]
        y = functions[layer.activation.name](z, layer.activation.parameter)
    return y.T


def make(
    name: str,
    net: Network,
    partition: Partition | None,
    window: int | None = None,
    change: Callable[[Store], Network] | None = None,
) -> None:
    """Write one golden store and what it must give."""
    if (FOLDER / f"{name}.npz").exists():
        return
    x = np.random.default_rng(2).random((5, net.widths[0])).astype(net.dtype)
    store = sdnn.save(net, FOLDER / f"{name}.zarr", partition=partition, window=window, overwrite=True)
    net = change(store) if change else net
    owner = [np.zeros(n, int) for n in net.widths] if partition is None else partition.owner
    expected = {
        "widths": np.array(net.widths),
        "activations": np.array([str(layer.activation) for layer in net]),
        "owner": np.concatenate(owner),
        "x": x,
        "y": forward(net, x),
    }
    for k, layer in enumerate(net):
        csr = layer.weights
        expected |= {f"indptr{k}": csr.indptr, f"indices{k}": csr.indices, f"data{k}": csr.data, f"bias{k}": layer.bias}
    np.savez_compressed(FOLDER / f"{name}.npz", **expected)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    make("mixed", *mixed(), window=1000)
    make("radixnet", *radixnet())
    make("trained", *trained(), window=500, change=train)
