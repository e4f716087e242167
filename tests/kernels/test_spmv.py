"""The product with one sample equals the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import BLOCKS, POSITIONS, TIGHT, bits, block_of, random_block
from networks import ACTIVATIONS

from dasksdnn.kernels import reference
from dasksdnn.kernels.spmm import split_rows
from dasksdnn.kernels.spmv import spmv
from dasksdnn.network import Activation, Layer


@settings(max_examples=60, deadline=None)
@given(
    made=BLOCKS,
    activation=st.sampled_from(ACTIVATIONS),
    dtype=st.sampled_from(["float32", "float64"]),
    positions=st.sampled_from(POSITIONS),
    count=st.integers(1, 4),
)
def test_one_sample_equals_the_reference(made, activation, dtype, positions, count):
    weights, bias = random_block(**made, dtype=dtype)
    f, x = Activation.parse(activation), np.random.default_rng(made["seed"]).normal(size=weights.shape[1]).astype(dtype)
    block, y, cut = block_of(weights, positions), *(np.full(weights.shape[0] + 1, 7, dtype) for _ in range(2))
    spmv(block, weights.data, bias, f, x, y)
    right = reference.forward_layer(Layer(weights, bias, f), x[:, None])[:, 0]
    np.testing.assert_allclose(y[:-1], right, **TIGHT[dtype])
    for part in split_rows(block, count):
        spmv(block, weights.data, bias, f, x, cut, part=part)
    np.testing.assert_array_equal(bits(cut), bits(y))
    assert y[-1] == 7


def test_what_is_not_contiguous_is_refused():
    weights, bias = random_block(1, 10, 20, 0.5)
    with pytest.raises(ValueError, match="contiguous"):
        spmv(block_of(weights), weights.data, bias, Activation("relu"), np.ones(40, np.float32)[::2], bias.copy())
