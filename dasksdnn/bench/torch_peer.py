"""PyTorch's CSR products, and dense products with masked weights; its own threads.

A training step is autograd's where weights are dense. With CSR weights, whose gradient autograd would make dense, it is
written by hand: products, and the gradient on the pattern added to the weights in place.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from dasksdnn.bench.contender import Contender, Crew, Missing, nothing, spans
from dasksdnn.bench.training import Training
from dasksdnn.bench.work import Backward, Forward, Width1
from dasksdnn.host import format_bytes
from dasksdnn.network import Activation, Array, Layer

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


def _contender(
    name: str,
    crew: Crew,
    run: Callable[[], Any],
    result: Callable[[Any], list[Array]],
    restore: Callable[[], None] = nothing,
) -> Contender:
    def inferring() -> Any:
        with torch.inference_mode():
            return run()

    def ready() -> None:
        torch.set_num_threads(crew.threads)
        restore()

    return Contender(name, crew.threads, inferring, result, ready)


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
    if missing := _too_large(name, work, crew):
        return missing
    return _forward(
        name, work, crew, [torch.from_numpy(layer.weights.toarray()) for layer in work.layers], work.samples
    )


def _too_large(name: str, work: Forward, crew: Crew) -> Missing | None:
    size = sum(layer.weights.shape[0] * layer.weights.shape[1] for layer in work.layers) * work.x.itemsize
    if size <= DENSE:
        return None
    why = f"dense weights would take {format_bytes(size)}; it is run where they take {format_bytes(DENSE)}"
    return Missing(name, crew.threads, why)


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


def training(work: Training, crew: Crew) -> list[Contender | Missing]:
    """CSR weights by hand, dense weights with a mask, and without one where that is asked for."""
    plain = [_train_dense("PyTorch dense", work, crew, masked=False)] if work.crossover else []
    return [_train_sparse(work, crew), _train_dense("PyTorch dense-masked", work, crew, masked=True), *plain]


def _train_sparse(work: Training, crew: Crew) -> Contender:
    layers = [_Sparse(layer, work.samples) for layer in work.layers]
    rows, targets = _tensor(work.x.T), _tensor(work.t)
    x, widest = torch.empty_like(rows.t().contiguous()), max(max(layer.weights.shape) for layer in work.layers)
    deltas = [rows.new_empty(widest, work.samples) for _ in range(2)]

    def run() -> None:
        panels = [x.copy_(rows.t())]
        for layer in layers:
            panels.append(layer.forward(panels[-1]))
        delta = deltas[0][: targets.shape[0]]
        torch.sub(panels[-1], targets, out=delta).mul_(1 / work.samples)
        for k in range(len(layers) - 1, -1, -1):
            before = deltas[(len(layers) - k) % 2][: panels[k].shape[0]] if k else None
            layers[k].backward(delta, panels[k], work.lr, before)
            delta = before

    def restore() -> None:
        for layer in layers:
            layer.restore()

    def result(_: Any) -> list[Array]:
        return [layer.values.numpy() for layer in layers] + [layer.bias[:, 0].numpy() for layer in layers]

    return _contender("PyTorch CSR", crew, run, result, restore)


class _Sparse:
    """A layer with CSR weights, and their transpose, whose values follow them; panels are made once."""

    def __init__(self, layer: Layer, samples: int) -> None:
        places = layer.weights.copy()
        places.data = np.arange(layer.edges)
        self._order = torch.from_numpy(places.T.tocsr().data)
        self._weights, self._transposed = _csr(layer.weights.copy()), _csr(layer.weights.T.tocsr())
        self.values, self.bias = self._weights.values(), torch.from_numpy(layer.bias[:, None].copy())
        self._fresh = [value.clone() for value in (self.values, self._transposed.values(), self.bias)]
        self._relu = layer.activation.name == "relu"
        self._y = self.values.new_empty(layer.weights.shape[0], samples)

    def restore(self) -> None:
        """Put back what the first step began with."""
        for value, fresh in zip((self.values, self._transposed.values(), self.bias), self._fresh, strict=True):
            value.copy_(fresh)

    def forward(self, x: Any) -> Any:
        """The outputs of a panel."""
        torch.mm(self._weights, x, out=self._y).add_(self.bias)
        return self._y.relu_() if self._relu else self._y

    def backward(self, delta: Any, x: Any, lr: float, before: Any) -> None:
        """Update the layer, and write the delta of its inputs where there is `before` to write it to."""
        if self._relu:
            torch.ops.aten.threshold_backward.grad_input(delta, self._y, 0, grad_input=delta)
        if before is not None:
            torch.mm(self._transposed, delta, out=before)
        torch.sparse.sampled_addmm(self._weights, delta, x.t(), beta=1.0, alpha=-lr, out=self._weights)
        self.bias.sub_(delta.sum(1, keepdim=True), alpha=lr)
        torch.index_select(self.values, 0, self._order, out=self._transposed.values())


def _train_dense(name: str, work: Training, crew: Crew, masked: bool) -> Contender | Missing:
    if missing := _too_large(name, work, crew):
        return missing
    layers = [_Dense(layer, masked) for layer in work.layers]
    rows, targets = _tensor(work.x.T), _tensor(work.t.T)
    optimizer = torch.optim.SGD([value for layer in layers for value in (layer.weights, layer.bias)], work.lr)

    def run() -> None:
        y = rows
        for layer in layers:
            y = layer.forward(y)
        loss = functional.mse_loss(y, targets, reduction="sum") * (0.5 / work.samples)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def ready() -> None:
        torch.set_num_threads(crew.threads)
        for layer in layers:
            layer.restore()

    def result(_: Any) -> list[Array]:
        return [layer.values() for layer in layers] + [layer.bias.detach().numpy() for layer in layers]

    return Contender(name, crew.threads, run, result, ready)


class _Dense:
    """A layer with dense weights, of which a mask leaves those on the pattern."""

    def __init__(self, layer: Layer, masked: bool) -> None:
        self._layer, self._fresh = layer, (torch.from_numpy(layer.weights.toarray()), torch.from_numpy(layer.bias))
        self.weights, self.bias = (value.clone().requires_grad_() for value in self._fresh)
        places = layer.weights.copy()
        places.data[:] = 1
        self._mask = torch.from_numpy(places.toarray()) if masked else None
        self._relu = layer.activation.name == "relu"

    def restore(self) -> None:
        """Put back what the first step began with."""
        with torch.no_grad():
            for value, fresh in zip((self.weights, self.bias), self._fresh, strict=True):
                value.copy_(fresh)

    def forward(self, x: Any) -> Any:
        """The outputs of rows (samples, inputs)."""
        z = functional.linear(x, self.weights if self._mask is None else self.weights * self._mask, self.bias)
        return torch.relu(z) if self._relu else z

    def values(self) -> Array:
        """The weights on the pattern."""
        coo = self._layer.weights.tocoo()
        return np.asarray(self.weights.detach().numpy()[coo.row, coo.col])
