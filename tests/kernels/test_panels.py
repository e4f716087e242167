"""Panels: aligned, filled and taken out without loss, dead columns told from living ones."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from dasksdnn.kernels.panels import (
    LINE,
    alive_columns,
    extract_rows,
    fill_csr,
    fill_dense,
    move_columns,
    new_panel,
    remap,
    widened,
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_panels_are_aligned(dtype):
    for neurons, width in ((1, 16), (1000, 48), (3, 0), (0, 16), (70_000, 32)):
        panel = new_panel(neurons, width, dtype)
        assert panel.shape == (neurons, width)
        assert panel.dtype == dtype
        assert panel.flags.c_contiguous
        assert not panel.size or panel.ctypes.data % LINE == 0


def test_widened_panels_end_in_zeros():
    wide = widened(np.ones((3, 5), np.float32))
    assert wide.shape == (3, 16)
    assert (wide[:, :5] == 1).all()
    assert not wide[:, 5:].any()


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
