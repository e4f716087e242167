"""One training step as a piece of work: forward, loss, backward and the update of the stored weights, from fresh weights.

A run restores the weights before it is timed, so that every one is the first step, and can be held against the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dasksdnn.bench.work import Forward, on_pattern
from dasksdnn.errors import InputError
from dasksdnn.kernels import reference
from dasksdnn.network import Array, Layer

#: A sum nearer to zero than this, beside its layer's, may get another sign by rounding, and its sample other gradients.
NEAR_ZERO = 1e-5
#: Samples are drawn at most so many times as often as they are wanted.
DRAWS = 50


@dataclass(frozen=True)
class Training(Forward):
    """A step of plain SGD; the loss is 0.5 * sum((y - t)^2) / samples.

    Attributes
    ----------
    layers : tuple of Layer
        ReLU, or none.
    x : array of shape (inputs, samples)
    t : array of shape (outputs, samples)
        Targets.
    lr : float
        Learning rate: large enough that the weights' change is more than their rounding.
    crossover : bool
        Compare with dense weights without a mask, too.
    """

    t: Array
    lr: float
    crossover: bool = False
    kind = "training"

    @property
    def multiply_adds(self) -> int:
        """One an edge and sample for each of three products; no one needs the gradient of the network's inputs."""
        return (3 * self._edges - self.layers[0].edges) * self.samples

    def least_bytes(self, index_bytes: int) -> int:
        """Each product on its own; a weight is read where it is updated, too, and written."""
        itemsize, rows = self.x.itemsize, [sum(layer.weights.shape) for layer in self.layers]
        entries = (3 * self._edges - self.layers[0].edges) * (itemsize + index_bytes)
        panels = (3 * sum(rows) - rows[0]) * self.samples * itemsize
        return int(entries + self._edges * itemsize + panels)

    @property
    def _edges(self) -> int:
        return sum(layer.edges for layer in self.layers)

    @property
    def values(self) -> list[Array]:
        """Every layer's stored weights before the step, then every layer's bias."""
        return [*(layer.weights.data for layer in self.layers), *(layer.bias for layer in self.layers)]

    def expected(self) -> list[Array]:
        """By how much the step changes each of `values`, in double precision."""
        panels = [self.x.astype(np.float64)]
        layers = [_double(layer) for layer in self.layers]
        for layer in layers:
            panels.append(reference.forward_layer(layer, panels[-1]))
        delta = (panels[-1] - self.t) / self.samples
        weights, biases = [], []
        for layer, x, y in zip(layers[::-1], panels[-2::-1], panels[:0:-1], strict=True):
            if layer.activation.name == "relu":
                delta = delta * (y > 0)
            coo = layer.weights.tocoo()
            weights.append(-self.lr * on_pattern(coo.row, coo.col, delta, x))
            biases.append(-self.lr * delta.sum(axis=1))
            delta = layer.weights.T @ delta
        return [*weights[::-1], *biases[::-1]]

    def compared(self, found: Sequence[Array]) -> list[Array]:
        """The change of what a contender's step has left behind: the values themselves hide a wrong gradient."""
        return [after.astype(np.float64) - before for after, before in zip(found, self.values, strict=True)]


def _double(layer: Layer) -> Layer:
    return replace(layer, weights=layer.weights.astype(np.float64), bias=layer.bias.astype(np.float64))


def clear_samples(layers: Sequence[Layer], samples: int, seed: int = 0) -> Array:
    """Draw dense, positive samples for which rounding decides no ReLU's slope, so that all gradients can be compared.

    Parameters
    ----------
    layers : sequence of Layer
    samples, seed : int

    Returns
    -------
    float32 array of shape (inputs, samples)

    Raises
    ------
    InputError
        Next to no sample is clear.
    """
    rng, inputs = np.random.default_rng(seed), layers[0].weights.shape[1]
    found: list[Array] = []
    for _ in range(DRAWS):
        x = rng.random((inputs, samples), np.float32)
        found.append(x[:, _clear(layers, x)])
        if sum(panel.shape[1] for panel in found) >= samples:
            return np.ascontiguousarray(np.hstack(found)[:, :samples])
    raise InputError(
        f"training: of {DRAWS * samples:,} samples too few have all sums away from zero; use fewer neurons"
    )


def _clear(layers: Sequence[Layer], x: Array) -> Array:
    """Which samples have no sum next to zero; a sum of nothing is exactly zero for everyone."""
    clear, y = np.ones(x.shape[1], bool), x.astype(np.float64)
    for layer in map(_double, layers):
        z = layer.weights @ y + layer.bias[:, None]
        near = np.abs(z) < NEAR_ZERO * np.sqrt(np.mean(z * z))
        clear &= ~(near & (z != 0)).any(axis=0)
        y = reference.activate(z, layer.activation)
    return clear
