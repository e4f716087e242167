"""PyTorch's CSR products, and dense products with masked weights; its own threads."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dasksdnn.bench.contender import Contender, Crew, Missing, spans
from dasksdnn.bench.work import Backward, Forward, Width1
from dasksdnn.host import format_bytes
from dasksdnn.network import Activation, Array

#: Samples of a narrow panel, which stays closer to the cache.
TILE = 64
#: Bytes that dense weights may take.
DENSE = 1 << 30


def _csr(weights: Any) -> Any:
    with warnings.catch_warnings():  # "sparse CSR support is in beta", once a process
        warnings.simplefilter("ignore", UserWarning)
        parts = (torch.from_numpy(part) for part in (weights.indptr, weights.indices, weights.data))
        return torch.sparse_csr_tensor(*parts, size=weights.shape)


def _tensor(array: Array) -> Any:
    return torch.from_numpy(np.ascontiguousarray(array))


def _activate(z: Any, activation: Activation) -> Any:
    if activation.name == "clip":
        return z.clamp_(0, activation.parameter)
    return torch.relu_(z)


def _contender(name: str, crew: Crew, run: Callable[[], Any], result: Callable[[Any], list[Array]]) -> Contender:
    def inferring() -> Any:
        with torch.inference_mode():
            return run()

    return Contender(name, crew.threads, inferring, result, lambda: torch.set_num_threads(crew.threads))


def forward(work: Forward, crew: Crew) -> list[Contender | Missing]:
    """The CSR product on the whole panel and on panels of 64 samples, and the dense product."""
    csr = [_csr(layer.weights) for layer in work.layers]
    return [
        _forward("PyTorch CSR", work, crew, csr, work.samples),
        _forward("PyTorch CSR, tiles of 64", work, crew, csr, TILE),
        _dense(work, crew),
    ]


def _dense(work: Forward, crew: Crew) -> Contender | Missing:
    name = "PyTorch dense-masked"
    size = sum(layer.weights.shape[0] * layer.weights.shape[1] for layer in work.layers) * work.x.itemsize
    if size > DENSE:
        why = f"dense weights would take {format_bytes(size)}; it is run where they take {format_bytes(DENSE)}"
        return Missing(name, crew.threads, why)
    return _forward(
        name, work, crew, [torch.from_numpy(layer.weights.toarray()) for layer in work.layers], work.samples
    )


def _forward(name: str, work: Forward, crew: Crew, weights: list[Any], width: int) -> Contender:
    panels = [_tensor(work.x[:, span]) for span in spans(work.samples, width)]
    # A bias of zero is not added.
    biases = [_tensor(layer.bias)[:, None] if layer.bias.any() else None for layer in work.layers]
    activations = [layer.activation for layer in work.layers]

    def through(y: Any) -> Any:
        for w, bias, activation in zip(weights, biases, activations, strict=True):
            z = w @ y
            y = _activate(z if bias is None else z.add_(bias), activation)
        return y

    return _contender(
        name, crew, lambda: [through(panel) for panel in panels], lambda out: [np.hstack([y.numpy() for y in out])]
    )


def backward(work: Backward, crew: Crew) -> list[Contender]:
    """The product with a stored transpose, and `sampled_addmm`."""
    layers = [(_csr(layer.weights), _csr(layer.weights.T.tocsr()), _tensor(x).t()) for layer, x in work.reversed()]
    last = _tensor(work.delta)

    def run() -> list[Any]:
        delta, gradients = last, []
        for pattern, transposed, x in layers:
            gradients.append(torch.sparse.sampled_addmm(pattern, delta, x, beta=0.0))
            delta = transposed @ delta
        return [delta, *gradients[::-1]]

    def result(found: list[Any]) -> list[Array]:
        return [found[0].numpy(), *(gradient.values().numpy() for gradient in found[1:])]

    return [_contender("PyTorch CSR", crew, run, result)]


def width1(work: Width1, crew: Crew) -> list[Contender]:
    """Matrix times vector."""
    weights, x = _csr(work.layer.weights), _tensor(work.x)
    return [_contender("PyTorch CSR", crew, lambda: torch.relu_(weights @ x), lambda y: [y.numpy()])]
