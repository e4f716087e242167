"""Plain SciPy and NumPy versions of every kernel: slow, obviously right, the oracle of the tests and of `demo`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from dasksdnn.network import Activation, Array, Layer


def activate(z: Array, activation: Activation) -> Array:
    """Apply an activation to `z`, element by element."""
    p = z.dtype.type(activation.parameter)
    activated: Array = z
    match activation.name:
        case "relu":
            activated = np.maximum(z, z.dtype.type(0))
        case "clip":
            activated = np.minimum(np.maximum(z, z.dtype.type(0)), p)
        case "leaky_relu":
            activated = np.where(z > 0, z, p * z)
        case "sigmoid":
            activated = 1 / (1 + np.exp(-z))
        case "tanh":
            activated = np.tanh(z)
    return activated


def forward_layer(layer: Layer, x: Array) -> Array:
    """x_k of shape (outputs, samples), from `x` = x_{k-1} of shape (inputs, samples)."""
    z = layer.weights @ x + layer.bias[:, None]
    return activate(z.astype(layer.weights.dtype, copy=False), layer.activation)


def infer(layers: Iterable[Layer], x: Any) -> Array:
    """Run samples `x` (samples, inputs), dense or SciPy sparse, through all layers; returns (samples, outputs)."""
    panel = np.ascontiguousarray((x.toarray() if hasattr(x, "toarray") else np.asarray(x)).T)
    for layer in layers:
        panel = forward_layer(layer, panel.astype(layer.weights.dtype, copy=False))
    return np.ascontiguousarray(panel.T)
