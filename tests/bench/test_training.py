"""The step that contenders are held against is autograd's, a wrong one is refused, and samples stay clear of ReLU's kink."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
from bench_cases import make

from dasksdnn.bench import cases, training
from dasksdnn.bench.contender import Contender, Crew, Missing
from dasksdnn.bench.peers import contenders
from dasksdnn.bench.training import Training, clear_samples
from dasksdnn.bench.work import check
from dasksdnn.errors import DaskSDNNError, InputError
from dasksdnn.network import Activation, Layer


def layers(widths=(9, 14, 11, 6), last="identity"):
    rng, made = np.random.default_rng(3), []
    for inputs, outputs in pairwise(widths):
        weights = scipy.sparse.random_array(
            (outputs, inputs), density=0.5, rng=rng, data_sampler=rng.standard_normal, format="csr"
        )
        bias = rng.standard_normal(outputs).astype(np.float32)
        made.append(Layer(scipy.sparse.csr_array(weights.astype(np.float32)), bias, Activation("relu")))
    return (*made[:-1], replace(made[-1], activation=Activation(last)))


def work(last="identity", samples=20):
    made = layers(last=last)
    t = np.random.default_rng(4).standard_normal((6, samples), np.float32)
    return Training(made, clear_samples(made, samples), t, lr=0.05)


@pytest.mark.parametrize("last", ["identity", "relu"])
def test_the_reference_is_autograds_step(last):
    torch = pytest.importorskip("torch", reason="torch is not installed: a peer of the extra [bench]")
    w = work(last)
    weights = [torch.tensor(layer.weights.toarray(), dtype=torch.float64, requires_grad=True) for layer in w.layers]
    biases = [torch.tensor(layer.bias, dtype=torch.float64, requires_grad=True) for layer in w.layers]
    y = torch.tensor(w.x, dtype=torch.float64)
    for layer, a, b in zip(w.layers, weights, biases, strict=True):
        z = a @ y + b[:, None]
        y = torch.relu(z) if layer.activation.name == "relu" else z
    (0.5 * ((y - torch.tensor(w.t)) ** 2).sum() / w.samples).backward()
    on_pattern = [a.grad.numpy()[layer.weights.tocoo().coords] for layer, a in zip(w.layers, weights, strict=True)]
    right = [-w.lr * gradient for gradient in (*on_pattern, *(b.grad.numpy() for b in biases))]
    for found, expected in zip(w.expected(), right, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["dasksdnn", "scipy", "torch"])
@pytest.mark.parametrize("last", ["identity", "relu"])
def test_layers_of_several_widths(name, last):
    if name == "torch":
        pytest.importorskip("torch", reason="torch is not installed: a peer of the extra [bench]")
    w = work(last)
    with Crew(1) as crew:
        for contender in contenders(name, w, crew):
            assert isinstance(contender, Contender)
            contender.ready()
            check(contender.name, w.compared(contender.result(contender.run())), w.expected())


def test_a_step_that_was_not_done_is_no_result():
    w = work()
    with pytest.raises(DaskSDNNError, match="computes something else"):
        check("it", w.compared(w.values), w.expected())


@pytest.mark.parametrize("name", ["dasksdnn", "scipy", "torch"])
def test_runs_change_no_ones_work(name):
    if name == "torch":
        pytest.importorskip("torch", reason="torch is not installed: a peer of the extra [bench]")
    w = work()
    before = [array.copy() for array in (*w.values, w.x, w.t)]
    with Crew(1) as crew:
        for contender in contenders(name, w, crew):
            contender.ready()
            contender.run()
            contender.run()
    for array, right in zip((*w.values, w.x, w.t), before, strict=True):
        np.testing.assert_array_equal(array, right)


def test_multiply_adds():
    w = work()
    edges = [layer.edges for layer in w.layers]
    assert w.multiply_adds == 20 * (2 * edges[0] + 3 * (edges[1] + edges[2]))


def test_plain_dense_weights_take_part_at_the_crossover():
    pytest.importorskip("torch", reason="torch is not installed: a peer of the extra [bench]")
    made = [case.make() for case in cases.cases(["training"], [64], 8)]
    assert [w.crossover for w in made] == [False, False, True, True, True]
    with Crew(1) as crew:
        names = [[c.name for c in contenders("torch", w, crew)] for w in (made[0], made[-1])]
    assert names == [["PyTorch CSR", "PyTorch dense-masked"], ["PyTorch CSR", "PyTorch dense-masked", "PyTorch dense"]]


def test_dense_weights_too_large_are_named(monkeypatch):
    pytest.importorskip("torch", reason="torch is not installed: a peer of the extra [bench]")
    from dasksdnn.bench import torch_peer

    monkeypatch.setattr(torch_peer, "DENSE", 1000)
    with Crew(1) as crew:
        found = contenders("torch", replace(make("training"), crossover=True), crew)
    assert [isinstance(c, Missing) for c in found] == [False, True, True]
    assert "dense weights would take" in found[1].why


def test_the_share_of_weights_is_the_titles():
    for case in cases.cases(["training"], [1024, 2048], 8)[2:]:
        named = float(case.title.split("random, ")[1].split("%")[0])
        layer = case.make().layers[0]
        assert case.neurons == 1024
        assert 100 * (1 - layer.edges / 1024**2) == pytest.approx(named, abs=0.1)


def test_no_sum_is_next_to_zero():
    made = layers()
    y = clear_samples(made, 500).astype(np.float64)
    assert y.shape == (9, 500)
    for layer in made:
        z = layer.weights.astype(np.float64) @ y + layer.bias.astype(np.float64)[:, None]
        assert (np.abs(z) > 0.5 * training.NEAR_ZERO * np.sqrt(np.mean(z**2))).all()
        y = np.maximum(z, 0)


def test_no_clear_samples(monkeypatch):
    monkeypatch.setattr(training, "NEAR_ZERO", 10.0)
    with pytest.raises(InputError, match="too few have all sums away from zero"):
        clear_samples(layers(), 5)
