"""Digests tell patterns, and networks, apart; and stream."""

import numpy as np
import pytest
import scipy.sparse
from networks import random_net
from partition_cases import network

import dasksdnn as sdnn
from dasksdnn.network import Activation, Layer, Network
from dasksdnn.partition import digests
from dasksdnn.partition.digests import content_digest, pattern_digest
from dasksdnn.partition.metrics import recount

PATTERN = np.eye(6, 5, dtype=bool)


def changed(net, k=0, **parts):
    layers = list(net)
    old = layers[k]
    layers[k] = Layer(**{"weights": old.weights, "bias": old.bias, "activation": old.activation, **parts})
    return Network.from_layers(layers)


def test_only_the_pattern_counts():
    net = network([PATTERN, np.ones((3, 6))])
    other = network([PATTERN, np.ones((3, 6))], np.float64)
    wide = net[0].weights.copy()
    wide.indptr, wide.indices, wide.data = wide.indptr.astype(np.int64), wide.indices.astype(np.int64), wide.data * 2
    assert pattern_digest(net) == pattern_digest(other) == pattern_digest(changed(net, weights=wide))
    assert recount(net, [np.zeros(n, int) for n in net.widths], 1).pattern == pattern_digest(net)
    patterns = [[PATTERN, np.ones((3, 6))[::-1, :]], [PATTERN[:, ::-1], np.ones((3, 6))], [PATTERN], [np.eye(5, 6)]]
    assert len({pattern_digest(network(p)) for p in patterns}) == 4
    assert pattern_digest(network(patterns[0])) == pattern_digest(net)


def test_all_the_content_counts():
    net = random_net(3, layers=3)
    old = net[0]
    others = [
        changed(net, weights=old.weights * np.float32(2)),
        changed(net, bias=old.bias + 1),
        changed(net, activation=Activation.parse("clip:7")),
        Network.from_layers(list(net)[:2]),
    ]
    assert content_digest(changed(net)) == content_digest(net)
    assert len({content_digest(n) for n in (net, *others)}) == 5


def test_pieces_do_not_count(monkeypatch):
    net = network([np.ones((40, 30))])
    whole = pattern_digest(net)
    monkeypatch.setattr(digests, "_PIECE", 7)
    assert pattern_digest(net) == whole


def test_stores_are_told_by_their_own_digest(tmp_path):
    net = random_net(4, layers=3)
    store = sdnn.save(net, tmp_path / "net.zarr")
    assert pattern_digest(store.network) == pattern_digest(net)
    assert content_digest(store.network) == store.digest


@pytest.mark.parametrize("digest", [pattern_digest, content_digest])
def test_one_layer_at_a_time(digest):
    loads = []

    def load(k):
        loads.append(k)
        return Layer(scipy.sparse.csr_array(np.eye(4, dtype=np.float32)), np.zeros(4))

    digest(Network([4, 4, 4], load))
    assert loads == [0, 1]
