"""A chain of layers in one call equals its layers one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import bits
from networks import random_input, random_net

from dasksdnn.kernels import reference
from dasksdnn.kernels.chain import empty_chain, run_chain, with_supernodes
from dasksdnn.kernels.panels import new_panel
from dasksdnn.kernels.spmm import spmm


def chain_of(net, positions=np.uint16):
    layers = list(net)
    rows, nonzeros = [layer.weights.shape[0] for layer in layers], [layer.edges for layer in layers]
    activations = [layer.activation for layer in layers]
    chain = empty_chain(rows, nonzeros, net.widths[:-1], activations, net.dtype, np.dtype(positions))
    for k, layer in enumerate(layers):
        block, (data, bias) = chain.block(k), chain.values(k)
        block.indptr[:], block.indices[:] = layer.weights.indptr, layer.weights.indices
        data[:], bias[:] = layer.weights.data, layer.bias
    return with_supernodes(chain)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 200), samples=st.integers(0, 64), cut=st.integers(0, 8))
def test_a_chain_equals_its_layers(seed, samples, cut):
    net = random_net(seed)
    chain, x = chain_of(net), random_input(seed, 64, net.widths[0], alive=1.0)
    assert (chain.widths, chain.nonzeros(0, len(chain))) == (net.widths, net.edges)
    widest = max(net.widths)
    panels = [new_panel(widest, 64, "float32") for _ in range(4)]
    for panel in panels:
        panel[...] = 0
        panel[: net.widths[0]] = x.T
    a, b = panels[:2]
    cut = min(cut, len(chain))
    for first, last in ((0, cut), (cut, len(chain))):
        a, b = run_chain(chain, first, last, a, b, samples)
    c, d = panels[2:]
    for k, activation in enumerate(chain.activations):
        data, bias = chain.values(k)
        spmm(chain.block(k), data, bias, activation, c, d, samples)
        c, d = d, c
    rows = net.widths[-1]
    np.testing.assert_array_equal(bits(a[:rows, :samples]), bits(c[:rows, :samples]))
    right = reference.infer(net, x)[:samples].T
    np.testing.assert_allclose(a[:rows, :samples], right, rtol=1e-4, atol=1e-5)


def test_panels_of_another_width_are_refused():
    chain = chain_of(random_net(1))
    with pytest.raises(ValueError, match="a multiple of 16"):
        run_chain(chain, 0, 1, new_panel(60, 20, "float32"), new_panel(60, 20, "float32"), 20)
