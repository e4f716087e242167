"""SciPy's CSR product; it has no threads, but releases the GIL, so samples are split over Python's."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from dasksdnn.bench.contender import Contender, Crew, share, spans
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
