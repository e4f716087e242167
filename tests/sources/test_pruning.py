"""Pruning while a network is read, against sorting all its weights."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_net

import dasksdnn as sdnn
from dasksdnn.errors import InputError
from dasksdnn.network import Layer, Network
from dasksdnn.sources.pruning import prune_network, smallest


def pruned_by_sorting(layers, density):
    """Each of `layers` without its share of the smallest weights of all: ties by layer, then by place."""
    entries = [(abs(v), k, i) for k, layer in enumerate(layers) for i, v in enumerate(layer.weights.data)]
    cells = sum(layer.weights.shape[0] * layer.weights.shape[1] for layer in layers)
    gone = {(k, i) for _, k, i in sorted(entries)[: max(0, len(entries) - round(density * cells))]}
    found = []
    for k, layer in enumerate(layers):
        kept = np.array([(k, i) not in gone for i in range(layer.edges)], bool)
        coo = layer.weights.tocoo()
        found.append(scipy.sparse.coo_array((coo.data[kept], (coo.row[kept], coo.col[kept])), shape=coo.shape).tocsr())
    return found


def same(net, expected, before):
    for mine, right, old in zip(net, expected, before, strict=True):
        assert mine.edges == right.nnz
        np.testing.assert_array_equal(mine.weights.indices, right.indices)
        np.testing.assert_array_equal(mine.weights.data, right.data)
        np.testing.assert_array_equal(mine.bias, old.bias)
        assert mine.activation == old.activation


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.floats(0.001, 1),
    st.sampled_from(["float32", "float64"]),
    st.booleans(),
)
def test_against_sorting(seed, density, dtype, coarse):
    net = Network.from_layers(list(random_net(seed, layers=3, widest=12, dtype=dtype)))
    if coarse:  # many ties
        layers = [(layer, layer.weights.copy()) for layer in net]
        for _, weights in layers:
            weights.data = np.round(weights.data * 2)
        net = Network.from_layers([Layer(w, layer.bias, layer.activation) for layer, w in layers])
    same(prune_network(net, density, "global"), pruned_by_sorting(list(net), density), net)
    alone = [pruned_by_sorting([layer], density)[0] for layer in net]
    same(prune_network(net, density, "layer"), alone, net)


def test_ties_go_first_come_first():
    net = sdnn.from_arrays([np.ones((2, 2)), -np.ones((2, 2))], biases=0.5)
    assert [layer.weights.toarray().tolist() for layer in prune_network(net, 0.25, "global")] == [
        [[0, 0], [0, 0]],
        [[0, 0], [-1, -1]],
    ]
    assert prune_network(net, 0.5)[0].weights.toarray().tolist() == [[0, 0], [1, 1]]
    assert prune_network(net, 0.25, "global")[0].bias.tolist() == [0.5, 0.5]


def test_what_changes_nothing():
    net = random_net(3)
    assert prune_network(net, None) is net
    same(prune_network(net, 1, "global"), [layer.weights for layer in net], net)
    same(prune_network(net, 1.0), [layer.weights for layer in net], net)
    assert prune_network(Network(net.widths, net.__getitem__, net.dtype, notes=["a"]), 0.5).notes == ("a",)


@pytest.mark.parametrize(
    ("density", "scope", "words"),
    [
        (0, "layer", "density 0.0 is not usable"),
        (1.5, "layer", "density 1.5"),
        (float("nan"), "global", "density: nan"),
        ("x", "global", "density: 'x'"),
        (0.5, "row", "prune scope 'row'"),
        (None, "row", "prune scope 'row'"),
    ],
)
def test_bad_arguments(density, scope, words):
    with pytest.raises(InputError, match=words):
        prune_network(random_net(1), density, scope)


def test_smallest():
    values = np.array([2.0, 1, 1, 3, 1])
    assert smallest(values, 2).tolist() == [False, True, True, False, False]
    assert not smallest(values, 0).any()
    assert not smallest(values, -3).any()
    assert smallest(values, 5).all()
