"""The training step against autograd of another framework, in every way that a plan may choose to run it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
from networks import random_partition

import dasksdnn as sdnn
from dasksdnn.engines.trainer import Trainer
from dasksdnn.kernels.update import SGD, Adam, Momentum
from dasksdnn.network import Activation, Layer, Network
from dasksdnn.plan.training import TrainingSettings


def network(activations, widths=(11, 17, 9, 23, 5), dtype="float64", seed=0):
    rng, layers = np.random.default_rng(seed), []
    for k, f in enumerate(activations):
        weights = scipy.sparse.random_array(
            (widths[k + 1], widths[k]), density=0.4, rng=rng, data_sampler=rng.standard_normal, dtype=np.float64
        )
        bias = rng.standard_normal(widths[k + 1]) / 3
        layers.append(Layer(scipy.sparse.csr_array(weights.astype(dtype)), bias.astype(dtype), Activation.parse(f)))
    return Network.from_layers(layers)


def settings(store, *, tile=16, tiles=4, cuts=(), resident=None, buffers=0, every=1, held=False, threads=2):
    ends = [0, *cuts, len(store)]
    slabs = tuple(pairwise(ends))
    return TrainingSettings(
        tile, tiles, slabs, len(slabs) if resident is None else resident, buffers, every, held, threads
    )


class Squares:
    """0.5 * mean over the batch of sum of (y - t)^2, in the network's own order of outputs."""

    def __init__(self, store, targets):
        self.store, self.targets, self.loss = store, targets, 0.0
        self.seen = np.zeros(targets.shape[0], int)

    def __call__(self, y, count, start, rows, delta):
        t = self.targets[start : start + count].T[rows]
        self.seen[start : start + count] += 1
        self.loss += 0.5 * float(((y[:, :count] - t) ** 2).sum()) / len(self.targets)
        if delta is not None:
            delta[:, count:] = 0
            delta[:, :count] = (y[:, :count] - t) / len(self.targets)


def autograd(net, x, t, optimizer, steps, clip=None):
    """Loss of each step, and the weights and biases behind the last."""
    torch = pytest.importorskip("torch")
    layers = list(net)
    masks = [torch.tensor(layer.weights.toarray() != 0) for layer in layers]
    weights = [torch.tensor(layer.weights.toarray(), requires_grad=True) for layer in layers]
    biases = [torch.tensor(layer.bias, requires_grad=True) for layer in layers]
    chosen, losses = optimizer(torch, [*weights, *biases]), []
    functions = {
        "identity": lambda z, p: z,
        "relu": lambda z, p: torch.relu(z),
        "clip": lambda z, p: torch.clamp(z, 0, p),
        "leaky_relu": lambda z, p: torch.nn.functional.leaky_relu(z, p),
        "sigmoid": lambda z, p: torch.sigmoid(z),
        "tanh": lambda z, p: torch.tanh(z),
    }
    for _ in range(steps):
        y = torch.tensor(x)
        for w, m, b, layer in zip(weights, masks, biases, layers, strict=True):
            y = functions[layer.activation.name](y @ (w * m).T + b, layer.activation.parameter)
        loss = 0.5 * ((y - torch.tensor(t)) ** 2).sum() / len(t)
        chosen.zero_grad()
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([*weights, *biases], clip)
        chosen.step()
        losses.append(float(loss.detach()))
    return losses, [w.detach().numpy() for w in weights], [b.detach().numpy() for b in biases]


def trained(store, x, t, rule, steps, how, clip=None, scratch=None):
    trainer, losses = Trainer(store, how, rule.moments, scratch=scratch), []
    try:
        for step in range(1, steps + 1):
            loss = Squares(store, t)
            trainer.step(x, loss, rule, step, clip=clip)
            assert (loss.seen == 1).all()
            losses.append(loss.loss)
        state = {
            (w.part, w.number): (trainer.values(w, "data"), trainer.values(w, "bias")) for w in store.manifest.windows
        }
        moved = trainer.moved
    finally:
        trainer.close()
    return losses, state, moved


def dense(store, state):
    """Weights and biases of every layer in the network's own numbering."""
    weights = [np.zeros((b, a)) for a, b in zip(store.widths[:-1], store.widths[1:], strict=True)]
    biases = [np.zeros(n) for n in store.widths[1:]]
    for window in store.manifest.windows:
        data, bias = state[window.part, window.number]
        for k, extent in enumerate(store.extents(window), start=window.first):
            block = store.block(window.part, k)
            row = block.rows[np.repeat(np.arange(block.rows.size), np.diff(block.indptr))]
            weights[k][row, block.columns[block.indices]] = data[slice(*extent.entries)]
            biases[k][block.rows] = bias[slice(*extent.rows)]
    return weights, biases


def check(store, found, right, tolerance):
    losses, weights, biases = right
    np.testing.assert_allclose(found[0], losses, rtol=tolerance)
    for ours, theirs in zip((*dense(store, found[1])[0], *dense(store, found[1])[1]), (*weights, *biases), strict=True):
        held = np.where(ours != 0, theirs, 0) if ours.ndim == 2 else theirs
        np.testing.assert_allclose(ours, held, rtol=tolerance, atol=tolerance)


RULES = {
    "sgd": (SGD(0.05, decay=0.01), lambda torch, p: torch.optim.SGD(p, 0.05, weight_decay=0.01)),
    "momentum": (Momentum(0.03, 0.8), lambda torch, p: torch.optim.SGD(p, 0.03, momentum=0.8)),
    "adam": (Adam(0.01), lambda torch, p: torch.optim.Adam(p, 0.01)),
}
WAYS = {
    "in memory": {},
    "one thread, one tile": {"threads": 1, "tile": 48, "tiles": 1},
    "recomputed": {"every": 3},
    "slabs that stay": {"cuts": (1, 3)},
    "streaming": {"cuts": (1, 2, 3), "resident": 0, "buffers": 3},
    "streaming, nothing ahead": {"cuts": (2,), "resident": 0, "buffers": 1, "every": 2},
    "some stay": {"cuts": (1, 3), "resident": 1, "buffers": 2},
    "rounds": {"tiles": 1, "held": True, "cuts": (2,), "resident": 1, "buffers": 2, "every": 2},
}


@pytest.fixture
def data():
    rng = np.random.default_rng(5)
    return rng.standard_normal((41, 11)), rng.standard_normal((41, 5))


@pytest.mark.parametrize("nparts", [1, 2, 5])
@pytest.mark.parametrize("name", RULES)
def test_steps_equal_autograd(tmp_path, data, name, nparts):
    rule, optimizer = RULES[name]
    net = network(["tanh", "relu", "leaky_relu:0.1", "identity"])
    store = sdnn.save(net, tmp_path / "net.zarr", partition=random_partition(net, nparts), window=500)
    found = trained(store, *data, rule, 4, settings(store))
    check(store, found, autograd(net, *data, optimizer, 4), 1e-10)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_run_equals_autograd(tmp_path, data, way):
    rule, optimizer = RULES["adam"]
    net = network(["sigmoid", "clip:1.5", "tanh", "identity"])
    store = sdnn.save(net, tmp_path / "net.zarr", partition=random_partition(net, 3))
    found = trained(store, *data, rule, 3, settings(store, **WAYS[way]), scratch=tmp_path)
    check(store, found, autograd(net, *data, optimizer, 3), 1e-10)
    assert not list(tmp_path.glob("dasksdnn-*"))
    assert (found[2][1] > 0) == ("streaming" in way or "some" in way or way == "rounds")


def test_single_precision(tmp_path, data):
    rule, optimizer = RULES["momentum"]
    x, t = (a.astype(np.float32) for a in data)
    net = network(["tanh", "relu", "leaky_relu:0.1", "identity"], dtype="float32")
    store = sdnn.save(net, tmp_path / "net.zarr")
    check(store, trained(store, x, t, rule, 4, settings(store)), autograd(net, x, t, optimizer, 4), 1e-4)


@pytest.mark.parametrize("way", ["in memory", "rounds"])
def test_clipped_gradients_equal_autograd(tmp_path, data, way):
    rule, optimizer = RULES["adam"]
    net = network(["tanh", "relu", "tanh", "identity"])
    store = sdnn.save(net, tmp_path / "net.zarr")
    how = settings(store, **{**WAYS[way], "held": True})
    found = trained(store, *data, rule, 3, how, clip=lambda norm: min(1.0, 0.05 / (norm + 1e-6)))
    check(store, found, autograd(net, *data, optimizer, 3, clip=0.05), 1e-10)


def same(a, b):
    return a[0] == b[0] and all(np.array_equal(x, y) for key in a[1] for x, y in zip(a[1][key], b[1][key], strict=True))


def test_threads_slabs_and_recomputing_change_no_bit(tmp_path, data):
    net = network(["sigmoid", "clip:1.5", "tanh", "identity"])
    store = sdnn.save(net, tmp_path / "net.zarr", partition=random_partition(net, 3))
    rule = RULES["adam"][0]
    first = trained(store, *data, rule, 3, settings(store))
    for way in ("recomputed", "slabs that stay", "streaming", "some stay"):
        assert same(first, trained(store, *data, rule, 3, settings(store, **WAYS[way])))
    for threads in (1, 3, 5):
        assert same(first, trained(store, *data, rule, 3, settings(store, threads=threads)))


def test_sparse_samples_give_the_same_bits(tmp_path, data):
    net = network(["tanh", "relu", "tanh", "identity"])
    store = sdnn.save(net, tmp_path / "net.zarr")
    x = np.where(data[0] > 0.5, data[0], 0)
    rule = SGD(0.1)
    dense_, sparse = (trained(store, v, data[1], rule, 2, settings(store)) for v in (x, scipy.sparse.csr_array(x)))
    assert same(dense_, sparse)


@pytest.mark.parametrize("way", ["in memory", "recomputed", "streaming"])
def test_a_probe_knows_the_gradient_of_edges_that_are_not_stored(tmp_path, data, way):
    torch = pytest.importorskip("torch")
    net = network(["tanh", "relu", "sigmoid", "identity"])
    store = sdnn.save(net, tmp_path / "net.zarr", partition=random_partition(net, 3))
    weights = [torch.tensor(layer.weights.toarray(), requires_grad=True) for layer in net]
    y = torch.tensor(data[0])
    for w, layer, f in zip(weights, net, (torch.tanh, torch.relu, torch.sigmoid, lambda z: z), strict=True):
        y = f(y @ w.T + torch.tensor(layer.bias))
    (0.5 * ((y - torch.tensor(data[1])) ** 2).sum() / 41).backward()
    trainer = Trainer(store, settings(store, **WAYS[way]), scratch=tmp_path)
    try:
        probe = trainer.probe(data[0], Squares(store, data[1]))
        for k, w in enumerate(weights):
            row, column = (i.ravel() for i in np.indices(w.shape))
            np.testing.assert_allclose(probe.gradient(k, row, column), w.grad.numpy().ravel(), atol=1e-12)
        probe.close()
        assert np.array_equal(
            trainer.values(store.manifest.windows[0], "data"), store.array(store.manifest.windows[0], "data").read()
        )
    finally:
        trainer.close()


def test_an_output_layer_wider_than_16_bits_number(tmp_path):
    rng = np.random.default_rng(2)
    net = network(["tanh", "identity"], widths=(4, 8, 70_000))
    store = sdnn.save(net, tmp_path / "net.zarr")
    x, t = rng.standard_normal((5, 4)), rng.standard_normal((5, 70_000))
    rule, optimizer = RULES["sgd"]
    check(store, trained(store, x, t, rule, 2, settings(store)), autograd(net, x, t, optimizer, 2), 1e-10)


def kept(key, layer, neurons, samples, rate):
    """Which outputs of a layer dropout keeps, as kernels/tape.py defines it, of shape (samples, neurons)."""
    with np.errstate(over="ignore"):
        layer, neuron, sample = (
            np.uint64(layer),
            np.arange(neurons, dtype=np.uint64),
            np.arange(samples, dtype=np.uint64),
        )
        z = np.uint64(key) + layer * np.uint64(0xD1342543DE82EF95) + neuron * np.uint64(0x9E3779B97F4A7C15)
        z = z ^ (z >> np.uint64(32))
        z = (z[None, :] + sample[:, None]) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
    return (z >> np.uint64(32)) >= np.uint64(round(rate * 2**32))


@pytest.mark.parametrize("way", ["in memory", "recomputed", "streaming", "rounds"])
def test_dropout_equals_autograd_with_the_same_masks(tmp_path, data, way):
    torch = pytest.importorskip("torch")
    rate, key = 0.3, 0x123456789ABCDEF0
    names = ["clip:1.5", "tanh", "sigmoid", "identity"]
    net = network(names)
    store = sdnn.save(net, tmp_path / "net.zarr", partition=random_partition(net, 3))
    x, t = data
    weights = [torch.tensor(layer.weights.toarray(), requires_grad=True) for layer in net]
    biases = [torch.tensor(layer.bias, requires_grad=True) for layer in net]
    functions = (lambda z: torch.clamp(z, 0, 1.5), torch.tanh, torch.sigmoid, lambda z: z)
    y, shares = torch.tensor(x), []
    for k, (w, b, f) in enumerate(zip(weights, biases, functions, strict=True)):
        if k:
            mask = kept(key, k, y.shape[1], len(x), rate)
            shares.append(mask.mean())
            y = y * torch.tensor(mask / (1 - rate))
        y = f(y @ w.T + b)
    (0.5 * ((y - torch.tensor(t)) ** 2).sum() / len(t)).backward()
    assert abs(np.mean(shares) - (1 - rate)) < 0.05
    rule = SGD(0.1)
    trainer = Trainer(store, settings(store, **WAYS[way]), dropout=rate, scratch=tmp_path)
    try:
        trainer.step(x, Squares(store, t), rule, 1, key=key)
        state = {
            (w.part, w.number): (trainer.values(w, "data"), trainer.values(w, "bias")) for w in store.manifest.windows
        }
    finally:
        trainer.close()
    found = dense(store, state)
    for w, b, ours, bias in zip(weights, biases, *found, strict=True):
        right = np.where(w.detach() != 0, w.detach() - 0.1 * w.grad, 0)
        np.testing.assert_allclose(ours, right, atol=1e-12)
        np.testing.assert_allclose(bias, (b.detach() - 0.1 * b.grad).numpy(), atol=1e-12)
