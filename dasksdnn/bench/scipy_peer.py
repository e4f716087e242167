"""SciPy's CSR product; it has no threads, but releases the GIL, so samples are split over Python's."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from dasksdnn.bench.contender import Contender, Crew, share, spans
from dasksdnn.bench.training import Training
from dasksdnn.bench.work import Backward, Challenge, Forward, Width1, on_pattern
from dasksdnn.kernels.reference import activate
from dasksdnn.network import Array, Layer

#: Samples of a narrow panel, which stays closer to the cache.
TILE = 64


def _layer(layer: Layer, x: Array) -> Array:
    """As its users write it; a bias of zero is not added."""
    z: Array = layer.weights @ x
    if layer.bias.any():
        z += layer.bias[:, None]
    if layer.activation.name == "relu":
        np.maximum(z, 0, out=z)
    elif layer.activation.name == "clip":
        np.clip(z, 0, layer.activation.parameter, out=z)
    else:
        z = activate(z, layer.activation)
    return z


def _panels(x: Array, width: int) -> list[Array]:
    return [np.ascontiguousarray(x[:, span]) for span in spans(x.shape[1], width)]


def forward(work: Forward, crew: Crew) -> list[Contender]:
    """Whole panels, one a thread, and panels of 64 samples."""
    return [
        _forward("SciPy", work, crew, share(work.samples, crew.threads)),
        _forward("SciPy, tiles of 64", work, crew, min(TILE, share(work.samples, crew.threads))),
    ]


def _forward(name: str, work: Forward, crew: Crew, width: int) -> Contender:
    panels = _panels(work.x, width)

    def through(panel: Array) -> Array:
        for layer in work.layers:
            panel = _layer(layer, panel)
        return panel

    return Contender(name, crew.threads, lambda: crew.each(through, panels), lambda out: [np.hstack(out)])


def backward(work: Backward, crew: Crew) -> list[Contender]:
    """The product with a stored transpose, and a plain product on the pattern, its entries split over threads."""
    transposed = [layer.weights.T.tocsr() for layer in work.layers[::-1]]
    entries = [layer.weights.tocoo() for layer in work.layers[::-1]]
    inputs = [x for _, x in work.reversed()]
    width = share(work.samples, crew.threads)

    def run() -> list[Array]:
        delta, gradients = work.delta, []
        for back, coo, x in zip(transposed, entries, inputs, strict=True):
            places = spans(coo.nnz, share(coo.nnz, crew.threads))
            gradients.append(crew.each(partial(on_pattern, coo.row, coo.col, delta, x), places))
            delta = np.hstack(crew.each(back.__matmul__, _panels(delta, width)))
        return [delta, *map(np.concatenate, gradients[::-1])]

    return [Contender("SciPy", crew.threads, run, lambda found: found)]


def training(work: Training, crew: Crew) -> list[Contender]:
    """Products with the weights and with a stored transpose, and a plain product on the pattern, all split over threads."""
    layers = [_Trained(layer) for layer in work.layers]
    rows, width = np.ascontiguousarray(work.x.T), share(work.samples, crew.threads)

    def run() -> None:
        panels = [np.ascontiguousarray(rows.T)]
        for layer in layers:
            panels.append(np.hstack(crew.each(layer.forward, _panels(panels[-1], width))))
        delta = (panels[-1] - work.t) / np.float32(work.samples)
        for layer, x, y in zip(layers[::-1], panels[-2::-1], panels[:0:-1], strict=True):
            delta = layer.backward(delta, x, y, work.lr, crew, first=layer is layers[0])

    def restore() -> None:
        for layer in layers:
            layer.restore()

    def result(_: Any) -> list[Array]:
        return [layer.weights.data for layer in layers] + [layer.bias for layer in layers]

    return [Contender("SciPy", crew.threads, run, result, restore)]


class _Trained:
    """A layer that is trained; the transpose's values follow the weights'."""

    def __init__(self, layer: Layer) -> None:
        self._layer, self.weights, self.bias = layer, layer.weights.copy(), layer.bias.copy()
        self._transposed, self._coo = layer.weights.T.tocsr(), layer.weights.tocoo()
        places = layer.weights.copy()
        places.data = np.arange(layer.edges)
        self._order = places.T.tocsr().data

    def restore(self) -> None:
        """Put back what the first step began with."""
        self.weights.data[:], self.bias[:] = self._layer.weights.data, self._layer.bias
        self._follow()

    def _follow(self) -> None:
        np.take(self.weights.data, self._order, out=self._transposed.data)

    def forward(self, x: Array) -> Array:
        """The outputs of a panel."""
        z: Array = self.weights @ x
        z += self.bias[:, None]
        return np.maximum(z, 0, out=z) if self._layer.activation.name == "relu" else z

    def backward(self, delta: Array, x: Array, y: Array, lr: float, crew: Crew, first: bool) -> Array:
        """Update the layer; gives the delta of its inputs, but of the first layer's, which no one needs."""
        if self._layer.activation.name == "relu":
            delta = delta * (y > 0)
        width, places = share(x.shape[1], crew.threads), spans(self._coo.nnz, share(self._coo.nnz, crew.threads))
        before = delta if first else np.hstack(crew.each(self._transposed.__matmul__, _panels(delta, width)))
        gradient = crew.each(partial(on_pattern, self._coo.row, self._coo.col, delta, x), places)
        self.weights.data -= np.float32(lr) * np.concatenate(gradient)
        self.bias -= np.float32(lr) * delta.sum(axis=1)
        self._follow()
        return before


def width1(work: Width1, crew: Crew) -> list[Contender]:
    """Matrix times vector; the rows split over threads."""
    weights, y = work.layer.weights, np.empty_like(work.layer.bias)
    cut = spans(y.size, share(y.size, crew.threads))
    rows = [weights[span] for span in cut]

    def run() -> Array:
        crew.each(lambda k: np.maximum(rows[k] @ work.x, 0, out=y[cut[k]]), range(len(cut)))
        return y

    return [Contender("SciPy", crew.threads, run, lambda found: [found])]


def challenge(work: Challenge, crew: Crew) -> list[Contender]:
    """Sparse samples times sparse weights, pruned after every layer; samples split over threads."""
    layers = [(layer.weights.T.tocsr(), layer.bias, layer.activation) for layer in work.net]
    blocks = [work.x[span] for span in spans(work.x.shape[0], share(work.x.shape[0], crew.threads))]

    def through(y: Any) -> Array:
        for weights, bias, activation in layers:
            y = y @ weights
            y.data += bias[y.indices]
            y.data = activate(y.data, activation)
            y.eliminate_zeros()
        return np.asarray(np.diff(y.indptr) > 0)

    def run() -> Array:
        return np.flatnonzero(np.concatenate(crew.each(through, blocks)))

    return [Contender("SciPy", crew.threads, run, lambda found: [found])]
