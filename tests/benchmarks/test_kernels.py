"""Kernels as benchmarks: `pytest tests/benchmarks --benchmark-enable` measures; by default each runs once, and is checked."""

from __future__ import annotations

import numpy as np
import pytest

import dasksdnn as sdnn
from dasksdnn.engines.loading import load
from dasksdnn.engines.part import forward
from dasksdnn.kernels import reference

NEURONS, LAYERS, SAMPLES = 1024, 6, 256


@pytest.mark.parametrize("pattern", ["radixnet", "random"])
def test_forward(pattern, benchmark, tmp_path):
    if pattern == "radixnet":
        net = sdnn.radixnet(NEURONS, LAYERS, weights="random", bias=0.0, clip=1e6)
    else:
        net = sdnn.random_network(NEURONS, LAYERS)
    layers = load(sdnn.save(net, tmp_path / "net.zarr"), 0, LAYERS)
    x = np.random.default_rng(0).random((NEURONS, SAMPLES), np.float32)

    def fresh():
        return (layers, x.copy(), np.empty_like(x), SAMPLES), {}

    found, _ = benchmark.pedantic(forward, setup=fresh, rounds=50, warmup_rounds=3)
    out = np.empty_like(found)
    out[layers[-1].rows] = found
    right = reference.infer(net, x.T).T
    np.testing.assert_allclose(out, right, rtol=1e-4, atol=1e-4 * right.max())
    benchmark.extra_info["edges"] = net.edges * SAMPLES
