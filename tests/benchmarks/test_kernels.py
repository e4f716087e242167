"""Kernels as benchmarks: `pytest tests/benchmarks --benchmark-enable` measures; by default each runs once, and is checked."""

from __future__ import annotations

import numpy as np
import pytest

import dasksdnn as sdnn
from dasksdnn.engines.loading import load
from dasksdnn.kernels import reference
from dasksdnn.kernels.block import make_block
from dasksdnn.kernels.chain import run_chain
from dasksdnn.kernels.panels import new_panel
from dasksdnn.kernels.sddmm import sddmm
from dasksdnn.kernels.spmm import spmm_transposed
from dasksdnn.kernels.spmv import spmv

NEURONS, LAYERS, SAMPLES = 1024, 6, 256
PATTERNS = {
    "radixnet": lambda: sdnn.radixnet(NEURONS, LAYERS, weights="random", bias=0.0, clip=1e6),
    "random": lambda: sdnn.random_network(NEURONS, LAYERS),
    "community": lambda: sdnn.community(NEURONS, LAYERS),
}


def near(found, right):
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-4 * np.abs(right).max())


@pytest.fixture(params=PATTERNS)
def made(request, tmp_path):
    """A network, and its layers as a chain."""
    net = PATTERNS[request.param]()
    return net, load(sdnn.save(net, tmp_path / "net.zarr"), 0, LAYERS)


@pytest.fixture
def block(made):
    """The chain's second layer with its transpose, its values, and a SciPy matrix that says the same."""
    block = made[1].chain.block(1)
    block = make_block(block.indptr, block.indices, block.inputs, transpose=True)
    data, bias = made[1].chain.values(1)
    import scipy.sparse

    return block, data, bias, scipy.sparse.csr_array((data, block.indices.astype(np.int64), block.indptr))


def panel(seed, neurons=NEURONS):
    held = new_panel(neurons, SAMPLES, np.float32)
    held[...] = np.random.default_rng(seed).random(held.shape)
    return held


@pytest.mark.parametrize("tile", [16, 48, 64, 256])
def test_forward(made, tile, benchmark):
    net, slab = made
    x = panel(0)

    def fresh():
        a, b = new_panel(NEURONS, tile, np.float32), new_panel(NEURONS, tile, np.float32)
        a[...] = x[:, :tile]
        return (slab.chain, 0, LAYERS, a, b, tile), {}

    found, _ = benchmark.pedantic(run_chain, setup=fresh, rounds=50, warmup_rounds=3)
    out = np.empty_like(found)
    out[slab.orders[-1]] = found
    near(out, reference.infer(net, x[:, :tile].T).T)
    benchmark.extra_info["multiply_adds"] = net.edges * tile


def test_backward(block, benchmark):
    pattern, data, _, matrix = block
    delta, out = panel(1), panel(2)
    benchmark(spmm_transposed, pattern, data, delta, out, SAMPLES)
    near(out, matrix.T @ delta)
    benchmark.extra_info["multiply_adds"] = pattern.nonzeros * SAMPLES


def test_gradient(block, benchmark):
    pattern, data, _, matrix = block
    delta, x, gradient = panel(1), panel(2), np.empty_like(data)
    benchmark(sddmm, pattern, delta, x, gradient, SAMPLES)
    rows = np.repeat(np.arange(NEURONS), np.diff(matrix.indptr))
    near(gradient, np.einsum("es,es->e", delta[rows], x[matrix.indices]))
    benchmark.extra_info["multiply_adds"] = pattern.nonzeros * SAMPLES


def test_one_sample(block, made, benchmark):
    pattern, data, bias, matrix = block
    x, y = np.random.default_rng(0).random(NEURONS, np.float32), np.empty(NEURONS, np.float32)
    activation = made[1].chain.activations[1]
    benchmark(spmv, pattern, data, bias, activation, x, y)
    near(y, reference.activate(matrix @ x + bias, activation))
    benchmark.extra_info["multiply_adds"] = pattern.nonzeros
