"""Smooth activations: as exact as a compiler's own functions, and the same in a vector and in a loop's remainder."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_cases import bits

from dasksdnn.kernels.activations import CODES, derive, transform

SMOOTH = {"sigmoid": lambda z: 1 / (1 + np.exp(-z)), "tanh": np.tanh}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SMOOTH)
def test_within_two_units_in_the_last_place(name, dtype):
    z = np.concatenate([np.linspace(-80, 80, 100_001), np.linspace(-1, 1, 100_001), [1e-30, -1e-30, 0.0]]).astype(dtype)
    y = z[None].copy()
    transform(y, 0, 1, 0, z.size, CODES[name], dtype(0))
    right = SMOOTH[name](z.astype(np.longdouble))
    assert (np.abs(y[0] - right) <= 2 * np.finfo(dtype).eps * np.abs(right)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SMOOTH)
def test_far_out(name, dtype):
    y = np.array([[-np.inf, -1e30, -1000, 1000, 1e30, np.inf, np.nan]], dtype)
    transform(y, 0, 1, 0, y.size, CODES[name], dtype(0))
    low = 0 if name == "sigmoid" else -1
    np.testing.assert_array_equal(y[0], [low, low, low, 1, 1, 1, np.nan])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [*SMOOTH, "leaky_relu"])
def test_the_same_bits_at_every_place(name, dtype):
    z = np.random.default_rng(0).normal(size=(1, 100)).astype(dtype)
    whole = z.copy()
    transform(whole, 0, 1, 0, 100, CODES[name], dtype(0.1))
    for s in range(100):
        transform(z, 0, 1, s, 1, CODES[name], dtype(0.1))
    np.testing.assert_array_equal(bits(z), bits(whole))


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives(name):
    y, out = np.random.default_rng(0).random((3, 40)), np.ones((3, 40))
    derive(out, y, np.array([0, 2, 1], np.uint32), 1, 3, 10, 20, CODES[name])
    right = np.ones((3, 40))
    right[1:, 10:30] = (y * (1 - y) if name == "sigmoid" else 1 - y * y)[1:, 10:30]
    np.testing.assert_allclose(out, right)
