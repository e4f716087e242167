"""The products forward and backward equal the reference, and give the same bits however they are cut."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import BLOCKS, POSITIONS, TIGHT, bits, block_of, random_block, random_panel
from networks import ACTIVATIONS

from dasksdnn.errors import InputError
from dasksdnn.kernels import reference
from dasksdnn.kernels.panels import new_panel
from dasksdnn.kernels.sddmm import sddmm
from dasksdnn.kernels.spmm import split_rows, spmm, spmm_transposed
from dasksdnn.kernels.spmv import spmv
from dasksdnn.network import Activation, Layer


def derivative(f, y):
    """f'(z) from y = f(z), in plain NumPy."""
    p = f.parameter
    return {
        "identity": np.ones_like(y),
        "relu": (y > 0).astype(y.dtype),
        "clip": ((y > 0) & (y < p)).astype(y.dtype),
        "leaky_relu": np.where(y > 0, 1, p),
        "sigmoid": y * (1 - y),
        "tanh": 1 - y * y,
    }[f.name]


@settings(max_examples=60, deadline=None)
@given(
    made=BLOCKS,
    width=st.integers(1, 150),
    activation=st.sampled_from(ACTIVATIONS),
    dtype=st.sampled_from(["float32", "float64"]),
    positions=st.sampled_from(POSITIONS),
)
def test_forward_equals_the_reference(made, width, activation, dtype, positions):
    weights, bias = random_block(**made, dtype=dtype)
    f, x = Activation.parse(activation), random_panel(made["seed"], weights.shape[1], width, dtype)
    y = np.full((weights.shape[0] + 1, width), 7, dtype)  # not aligned: only slower
    spmm(block_of(weights, positions), weights.data, bias, f, x, y, width)
    np.testing.assert_allclose(y[:-1], reference.forward_layer(Layer(weights, bias, f), x), **TIGHT[dtype])
    assert (y[-1] == 7).all()


@settings(max_examples=60, deadline=None)
@given(
    made=BLOCKS,
    width=st.integers(1, 150),
    activation=st.sampled_from([*ACTIVATIONS, None]),
    dtype=st.sampled_from(["float32", "float64"]),
    positions=st.sampled_from(POSITIONS),
)
def test_backward_equals_the_reference(made, width, activation, dtype, positions):
    weights, _ = random_block(**made, dtype=dtype)
    seed, (rows, columns) = made["seed"], weights.shape
    delta, out = random_panel(seed, rows, width, dtype), np.full((columns + 1, width), 7, dtype)
    f = Activation.parse(activation) if activation else None
    y = reference.activate(random_panel(seed + 1, columns, width, dtype), f) if f else None
    spmm_transposed(block_of(weights, positions, transpose=True), weights.data, delta, out, width, activation=f, y=y)
    right = weights.T @ delta * (derivative(f, y) if f else 1)
    np.testing.assert_allclose(out[:-1], right, **TIGHT[dtype])
    assert (out[-1] == 7).all()


@settings(max_examples=40, deadline=None)
@given(made=BLOCKS, width=st.integers(1, 100), first=st.integers(0, 60), activation=st.sampled_from(ACTIVATIONS))
def test_a_sample_gives_the_same_bits_at_every_width(made, width, first, activation):
    weights, bias = random_block(**made)
    f, x = Activation.parse(activation), random_panel(made["seed"], weights.shape[1], 160)
    whole, part = (new_panel(weights.shape[0], n, "float32") for n in (160, width))
    block = block_of(weights)
    spmm(block, weights.data, bias, f, x, whole, 160)
    spmm(block, weights.data, bias, f, np.ascontiguousarray(x[:, first : first + width]), part, width)
    np.testing.assert_array_equal(bits(part), bits(whole)[:, first : first + width])


@settings(max_examples=40, deadline=None)
@given(made=BLOCKS, count=st.integers(1, 7), backward=st.booleans())
def test_parts_of_the_rows_make_up_the_whole(made, count, backward):
    weights, bias = random_block(**made)
    block, f = block_of(weights, transpose=True), Activation("relu")
    rows, inputs = weights.shape[::-1] if backward else weights.shape
    x = random_panel(made["seed"], inputs, 40)
    whole, cut = np.zeros((rows, 40), np.float32), np.zeros((rows, 40), np.float32)

    def run(out, part=None):
        if backward:
            spmm_transposed(block, weights.data, x, out, 40, part=part)
        else:
            spmm(block, weights.data, bias, f, x, out, 40, part=part)

    run(whole)
    parts = split_rows(block, count, transposed=backward)
    supernodes = block.transpose.supernodes if backward else block.supernodes
    assert [a for first, last in parts for a in range(first, last)] == list(range(supernodes.size - 1))
    assert len(parts) <= count
    for part in parts:
        run(cut, part)
    np.testing.assert_array_equal(bits(cut), bits(whole))


def test_parts_carry_equal_work():
    weights = scipy.sparse.csr_array(np.tri(200, dtype=np.float32))
    block = block_of(weights)
    work = [block.indptr[block.supernodes[b]] - block.indptr[block.supernodes[a]] for a, b in split_rows(block, 4)]
    assert max(work) < 1.1 * sum(work) / 4


def test_only_the_samples_asked_for_are_needed():
    weights, bias = random_block(1, 10, 20, 0.5)
    x, y = np.ones((20, 64), np.float32), np.full((10, 64), 7, np.float32)
    spmm(block_of(weights), weights.data, bias, Activation("relu"), x, y, 17)
    assert (y[:, 32:] == 7).all()
    assert (y[:, :17] == y[:, :1]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("vector", [16, 32, 64])
@pytest.mark.parametrize("backward", [False, True])
def test_narrower_vectors_give_the_same_bits(vector, dtype, backward):
    """A fused multiply-add rounds once, whatever the width of the registers."""
    weights, bias = random_block(3, 60, 60, 0.4, 17, dtype)
    block, f, x = block_of(weights, transpose=True), Activation("clip", 2.0), random_panel(3, 60, 177, dtype)
    native, narrow = new_panel(60, 177, dtype), new_panel(60, 177, dtype)
    for out, width in ((native, None), (narrow, vector)):
        if backward:
            spmm_transposed(block, weights.data, x, out, 177, activation=f, y=x, vector=width)
        else:
            spmm(block, weights.data, bias, f, x, out, 177, vector=width)
    np.testing.assert_array_equal(bits(native), bits(narrow))


def sums_of_all_kernels():
    """One number a kernel: the sum of what it computes for a block with supernodes and without."""
    weights, bias = random_block(3, 60, 50, 0.4, 17)
    block, x, delta = block_of(weights, transpose=True), random_panel(3, 50, 80), random_panel(4, 60, 80)
    y, back, gradient, one = (np.empty(shape, "f4") for shape in ((60, 80), (50, 80), weights.nnz, 60))
    spmm(block, weights.data, bias, Activation("tanh"), x, y, 80)
    spmm_transposed(block, weights.data, delta, back, 80)
    sddmm(block, delta, x, gradient, 80)
    spmv(block, weights.data, bias, Activation("relu"), np.ascontiguousarray(x[:, 0]), one)
    return [float(np.abs(found).sum(dtype="f8")) for found in (y, back, gradient, one)]


ELSEWHERE = """
from dasksdnn.kernels.vectors import vector_bytes
from test_spmm import sums_of_all_kernels
print(vector_bytes(), *sums_of_all_kernels())
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the processors named here are not of this architecture")
@pytest.mark.parametrize(("name", "features", "width"), [("generic", "", 16), ("haswell", "+avx,+avx2,+fma", 32)])
def test_code_for_other_processors(name, features, width, tmp_path):
    """Numba is told to compile for another processor, in a process of its own: other registers, the same results."""
    told = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        env={**os.environ, "PYTHONPATH": here, **told},
        capture_output=True,
        text=True,
        check=True,
    )
    found, *sums = done.stdout.split()
    assert int(found) == width
    np.testing.assert_allclose([float(v) for v in sums], sums_of_all_kernels(), rtol=1e-6)


def test_what_is_not_a_number_stays_so():
    weights, bias = scipy.sparse.csr_array(np.ones((1, 2), np.float32)), np.zeros(1, np.float32)
    x, y = np.array([[np.inf, 1.0], [-np.inf, 1.0]], np.float32), np.empty((1, 2), np.float32)
    for name in ("relu", "clip:2", "identity", "leaky_relu:0.1", "sigmoid", "tanh"):
        spmm(block_of(weights), weights.data, bias, Activation.parse(name), x, y, 2)
        assert np.isnan(y[0, 0])
        assert y[0, 1] == pytest.approx(reference.activate(np.array([2.0]), Activation.parse(name))[0])


def test_derivatives_at_the_edges():
    """At the bounds the derivative is 0, beyond every number it is what it is before; a sum that overflowed is only hidden."""
    weights = scipy.sparse.csr_array(np.ones((1, 7), np.float32))
    y = np.array([0, -0.0, 1, 2, np.inf, np.nan, 3], np.float32)[:, None]
    for name, right in (
        ("relu", [0, 0, 1, 1, 1, 1, 1]),
        ("clip:2", [0, 0, 1, 0, 0, 1, 0]),
        ("leaky_relu:0.5", [0.5, 0.5, 1, 1, 1, 1, 1]),
    ):
        for delta in (1.0, np.inf):
            out, block = np.empty((7, 1), np.float32), block_of(weights, transpose=True)
            f, panel = Activation.parse(name), np.full((1, 1), delta, np.float32)
            spmm_transposed(block, weights.data, panel, out, 1, activation=f, y=y)
            np.testing.assert_array_equal(out[:, 0], [0 if each == 0 else each * delta for each in right])


def test_panels_in_another_order_are_refused():
    weights, bias = random_block(1, 10, 20, 0.5)
    x = np.asfortranarray(np.ones((20, 16), np.float32))
    with pytest.raises(ValueError, match="C order"):
        spmm(block_of(weights), weights.data, bias, Activation("relu"), x, np.ones((10, 16), np.float32), 16)


def test_the_way_back_needs_its_index_and_a_derivative():
    weights, _ = random_block(1, 10, 20, 0.5)
    delta, out = np.ones((10, 16), np.float32), np.ones((20, 16), np.float32)
    with pytest.raises(ValueError, match="transpose=True"):
        spmm_transposed(block_of(weights), weights.data, delta, out, 16)
    f = Activation("leaky_relu", -1.0)
    with pytest.raises(InputError, match="negative slope"):
        spmm_transposed(block_of(weights, transpose=True), weights.data, delta, out, 16, activation=f, y=out)


WRONG = {
    "samples": ("samples is 17", {"samples": 17}),
    "x too narrow": ("the others' width", {"x": np.ones((20, 8), np.float32)}),
    "y too narrow": ("the others' width", {"y": np.ones((10, 8), np.float32)}),
    "x too short": ("it needs 20 rows", {"x": np.ones((19, 16), np.float32)}),
    "y too short": ("it needs 10 rows", {"y": np.ones((9, 16), np.float32)}),
    "x of another dtype": ("panel x must be an array of float32", {"x": np.ones((20, 16))}),
    "y of another dtype": ("panel y must be an array of float32", {"y": np.ones((10, 16), np.int32)}),
    "data strided": ("data has shape", {"data": np.ones(400, np.float32)[::2]}),
    "data too short": ("data has shape", {"data": np.ones(199, np.float32)}),
    "bias of another dtype": ("bias has shape", {"bias": np.ones(10)}),
    "bias too short": ("bias has shape", {"bias": np.ones(9, np.float32)}),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_would_be_written_elsewhere_is_refused(case):
    match, change = WRONG[case]
    block = block_of(scipy.sparse.csr_array(np.ones((10, 20), np.float32)), transpose=True)
    given = {"data": np.ones(200, np.float32), "bias": np.ones(10, np.float32), "x": np.ones((20, 16), np.float32)}
    given = {**given, "y": np.ones((10, 16), np.float32), "samples": 16, **change}
    with pytest.raises(ValueError, match=match):
        spmm(block, given["data"], given["bias"], Activation("relu"), given["x"], given["y"], given["samples"])
    if "bias" not in change:
        with pytest.raises(ValueError):  # noqa: PT011 - the same, by the other names of the panels
            spmm_transposed(block, given["data"], given["y"], given["x"], given["samples"])
        with pytest.raises(ValueError):  # noqa: PT011 - likewise
            sddmm(block, given["y"], given["x"], given["data"], given["samples"])


def test_a_derivative_needs_the_output():
    block = block_of(scipy.sparse.csr_array(np.ones((10, 20), np.float32)), transpose=True)
    delta, out = np.ones((10, 16), np.float32), np.ones((20, 16), np.float32)
    with pytest.raises(ValueError, match="give y"):
        spmm_transposed(block, np.ones(200, np.float32), delta, out, 16, activation=Activation("relu"))
