"""GraphBLAS, a sparse network as its users write it: Y = select(Y (+.*) W + b > 0), rows are samples, Y is sparse."""

from __future__ import annotations

from typing import Any

import graphblas
import numpy as np
from graphblas import Matrix, binary, monoid, select, semiring

from dasksdnn.bench.contender import Contender, Crew
from dasksdnn.bench.work import Challenge, Forward
from dasksdnn.errors import InputError
from dasksdnn.network import Activation, Array, Layer


def _matrix(csr: Any) -> Any:
    return Matrix.from_csr(csr.indptr, csr.indices, csr.data, nrows=csr.shape[0], ncols=csr.shape[1])


def _bias(bias: Array) -> Any:
    """A diagonal matrix: with plus_plus it adds to what is stored, and only to that; None where there is nothing to add."""
    places = np.arange(bias.size)
    return Matrix.from_coo(places, places, bias, nrows=bias.size, ncols=bias.size) if bias.any() else None


def _prepare(layer: Layer) -> tuple[Any, Any, Activation]:
    if layer.activation.name not in ("relu", "clip"):
        raise InputError(f"{layer.name}: GraphBLAS users' networks have ReLU or clip, not {layer.activation}")
    return _matrix(layer.weights.T.tocsr()), _bias(layer.bias), layer.activation


def _layer(y: Any, weights: Any, bias: Any, activation: Activation) -> Any:
    y = semiring.plus_times(y @ weights).new(dtype=weights.dtype)
    if bias is not None:
        y << semiring.plus_plus(y @ bias)
    y << select.valuegt(y, 0)
    if activation.name == "clip":
        y << binary.min(y, right=activation.parameter)
    y.wait()
    return y


def _threads(crew: Crew) -> Any:
    def ready() -> None:
        graphblas.ss.config["nthreads"] = crew.threads

    return ready


def forward(work: Forward, crew: Crew) -> list[Contender]:
    """All samples at once."""
    layers = [_prepare(layer) for layer in work.layers]
    x = Matrix.from_dense(np.ascontiguousarray(work.x.T))

    def run() -> Any:
        y = x
        for layer in layers:
            y = _layer(y, *layer)
        return y

    return [Contender("GraphBLAS", crew.threads, run, lambda y: [y.to_dense(0, dtype=y.dtype).T], _threads(crew), 8)]


def challenge(work: Challenge, crew: Crew) -> list[Contender]:
    """All samples at once, to the rows that have an entry."""
    layers = [_prepare(layer) for layer in work.net]
    x = _matrix(work.x)

    def run() -> Any:
        y = x
        for layer in layers:
            y = _layer(y, *layer)
        return y.reduce_rowwise(monoid.max).new().to_coo(values=False)[0]

    return [Contender("GraphBLAS", crew.threads, run, lambda found: [np.asarray(found, np.int64)], _threads(crew), 8)]
