"""Every compiled kernel against the plain reference, over shapes, widths, dtypes and patterns."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from dasksdnn.kernels import reference
from dasksdnn.kernels.panels import alive_columns, extract_rows, fill_csr, fill_dense, move_columns, remap
from dasksdnn.kernels.spmm import find_supernodes, spmm
from dasksdnn.network import Activation, Layer

ACTIVATIONS = ["relu", "clip:2", "leaky_relu:0.1", "sigmoid", "tanh", "identity"]


def block(seed, rows, columns, degree, dtype, twins=1):
    """A random block in which up to `twins` consecutive rows share their columns; a row may be empty."""
    rng = np.random.default_rng(seed)
    pattern = np.repeat(rng.random((rows, columns)) < degree, rng.integers(1, twins + 1, rows), axis=0)[:rows]
    dense = rng.normal(size=(rows, columns)) * pattern
    if rows:
        dense[rng.integers(rows)] = 0
    return scipy.sparse.csr_array(dense.astype(dtype)), rng.normal(size=rows).astype(dtype)


def multiply(weights, bias, f, x, y, samples, positions="uint16", vector=None):
    indptr = weights.indptr.astype(np.int64)
    supernodes = find_supernodes(indptr, weights.indices)
    spmm(indptr, weights.indices.astype(positions), weights.data, supernodes, bias, f, x, y, samples, vector)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(0, 40),
    columns=st.integers(1, 90),
    degree=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    width=st.integers(1, 70),
    activation=st.sampled_from(ACTIVATIONS),
    dtype=st.sampled_from(["float32", "float64"]),
    positions=st.sampled_from(["uint16", "uint32", "int32", "int64"]),
    twins=st.sampled_from([1, 2, 9]),
)
def test_spmm_equals_the_reference(seed, rows, columns, degree, width, activation, dtype, positions, twins):
    weights, bias = block(seed, rows, columns, degree, dtype, twins)
    f = Activation.parse(activation)
    x = np.random.default_rng([seed, 1]).normal(size=(columns, width)).astype(dtype)
    y = np.full((rows + 1, width), 7, dtype)
    multiply(weights, bias, f, x, y, width, positions)
    right = reference.forward_layer(Layer(weights, bias, f), x)
    tight = dtype == "float64"
    np.testing.assert_allclose(y[:rows], right, rtol=1e-12 if tight else 2e-5, atol=1e-12 if tight else 2e-5)
    assert (y[rows] == 7).all()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    width=st.integers(1, 100),
    first=st.integers(0, 60),
    activation=st.sampled_from(ACTIVATIONS),
)
def test_a_sample_gives_the_same_bits_at_every_width(seed, width, first, activation):
    weights, bias = block(seed, 20, 50, 0.5, "float32", twins=1 + seed % 5)
    f = Activation.parse(activation)
    x = np.random.default_rng([seed, 1]).normal(size=(50, 160)).astype(np.float32)
    whole, part = np.empty((20, 160), np.float32), np.empty((20, width), np.float32)
    multiply(weights, bias, f, x, whole, 160)
    multiply(weights, bias, f, np.ascontiguousarray(x[:, first : first + width]), part, width)
    np.testing.assert_array_equal(part.view(np.uint32), whole[:, first : first + width].view(np.uint32))


def test_only_the_samples_asked_for_are_needed():
    weights, bias = block(1, 10, 20, 0.5, "float32")
    x, y = np.ones((20, 64), np.float32), np.full((10, 64), 7, np.float32)
    multiply(weights, bias, Activation("relu"), x, y, 17)
    assert (y[:, 32:] == 7).all()
    assert (y[:, :17] == y[:, :1]).all()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000), samples=st.integers(0, 50), neurons=st.integers(1, 30), width=st.sampled_from([50, 64])
)
def test_filling_and_taking_out(seed, samples, neurons, width):
    rng = np.random.default_rng(seed)
    rows = (rng.random((samples, neurons)) * (rng.random((samples, 1)) < 0.5)).astype(np.float32)
    dense, scattered = np.zeros((neurons + 2, width), np.float32), np.full((neurons + 2, width), 5, np.float32)
    fill_dense(dense, rows)
    sparse = scipy.sparse.csr_array(rows)
    fill_csr(scattered, neurons, sparse.indptr, sparse.indices, sparse.data, 0, samples)
    np.testing.assert_array_equal(dense[:neurons, :samples], rows.T)
    np.testing.assert_array_equal(scattered[:neurons, :samples], rows.T)
    assert not scattered[:neurons, samples:].any()
    live = alive_columns(dense, neurons, samples)
    np.testing.assert_array_equal(live, rows.any(axis=1))
    keep = np.flatnonzero(live)
    move_columns(dense, keep, dense, 0, neurons)  # in place: columns only ever move to the left
    np.testing.assert_array_equal(dense[:neurons, : keep.size], rows[keep].T)
    order = rng.permutation(neurons)
    taken = np.empty((keep.size, neurons), np.float32)
    extract_rows(dense, np.arange(keep.size), order, taken)
    np.testing.assert_array_equal(taken[:, order], rows[keep])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("vector", [16, 32, 64])
def test_narrower_machines_give_the_same_bits(vector, dtype):
    """A fused multiply-add rounds once, whatever the width of the registers."""
    weights, bias = block(3, 40, 60, 0.4, dtype, twins=7)
    x = np.random.default_rng(3).normal(size=(60, 177)).astype(dtype)
    native, narrow = np.empty((40, 177), dtype), np.empty((40, 177), dtype)
    multiply(weights, bias, Activation("clip", 2.0), x, native, 177)
    multiply(weights, bias, Activation("clip", 2.0), x, narrow, 177, vector=vector)
    np.testing.assert_array_equal(native, narrow)


def test_what_is_not_a_number_stays_so():
    weights, bias = scipy.sparse.csr_array(np.ones((1, 2), np.float32)), np.zeros(1, np.float32)
    x, y = np.array([[np.inf, 1.0], [-np.inf, 1.0]], np.float32), np.empty((1, 2), np.float32)
    for name in ("relu", "clip:2", "identity", "leaky_relu:0.1"):
        multiply(weights, bias, Activation.parse(name), x, y, 2)
        assert np.isnan(y[0, 0])
        assert y[0, 1] == 2


def test_supernodes():
    rows = [[1, 3], [1, 3], [1, 3], [2, 3], [], [], [1], [1, 3]]
    indptr = np.cumsum([0, *map(len, rows)])
    found = find_supernodes(indptr, np.array([j for row in rows for j in row], np.uint16))
    assert found.tolist() == [0, 3, 4, 6, 7, 8]
    assert find_supernodes(np.zeros(1, np.int64), np.zeros(0, np.uint16)).tolist() == [0]


def test_panels_in_another_order_are_refused():
    weights, bias = block(1, 10, 20, 0.5, "float32")
    with pytest.raises(ValueError, match="C order"):
        multiply(
            weights,
            bias,
            Activation("relu"),
            np.asfortranarray(np.ones((20, 16), np.float32)),
            np.ones((10, 16), np.float32),
            16,
        )


def test_a_nan_is_alive():
    panel = np.zeros((3, 4), np.float32)
    panel[1, 2] = np.nan
    panel[0, 3] = -0.0
    assert alive_columns(panel, 3, 4).tolist() == [False, False, True, False]


@pytest.mark.parametrize("narrow", ["uint16", "uint32"])
def test_renumbering_stays_in_bounds(narrow):
    table = np.array([5, 3, 1], np.uint32)
    out = np.zeros(3, np.uint16)
    assert remap(np.array([2, 0, 1], narrow), table, out)
    assert out.tolist() == [1, 5, 3]
    assert not remap(np.array([2, 3, 1], narrow), table, out)
