import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from dasksdnn.errors import InputError
from dasksdnn.network import Activation
from dasksdnn.sources.draws import distinct_columns
from dasksdnn.sources.generators import challenge_bias, community, radixnet, random_network

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "graphchallenge"
KINDS = [radixnet, random_network, community]


def same(a, b):
    return (
        a.weights.shape == b.weights.shape
        and np.array_equal(a.weights.indptr, b.weights.indptr)
        and np.array_equal(a.weights.indices, b.weights.indices)
        and np.array_equal(a.weights.data, b.weights.data)
        and np.array_equal(a.bias, b.bias)
        and a.activation == b.activation
    )


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published files are not beside the project (../shared)")
def test_first_group_is_the_published_network_entry_for_entry():
    net = radixnet(1024, 12)
    for k in range(6):
        with gzip.open(PUBLISHED / f"n1024-l{k + 1}.tsv.gz", "rt") as file:
            table = np.array([line.split() for line in file], float)
        entries = (table[:, 2].astype(np.float32), (table[:, 1].astype(int) - 1, table[:, 0].astype(int) - 1))
        expected = scipy.sparse.coo_array(entries, shape=(1024, 1024)).tocsr()
        weights = net[k].weights
        assert np.array_equal(weights.indptr, expected.indptr)
        assert np.array_equal(weights.indices, expected.indices)
        assert np.array_equal(weights.data, expected.data)


@pytest.mark.parametrize("neurons", [32, 64, 128, 256, 512, 1024, 4096])
def test_radixnet_is_regular_at_every_size(neurons):
    depth = (neurons // 16).bit_length() - 1
    net = radixnet(neurons, 2 * depth + 1)
    assert net.edges == 32 * neurons * len(net)
    for layer in net:
        assert (np.diff(layer.weights.indptr) == 32).all()
        assert (np.bincount(layer.weights.indices, minlength=neurons) == 32).all()
        assert layer.weights.has_canonical_format
        assert (layer.weights.data == np.float32(1 / 16)).all()


@pytest.mark.parametrize("neurons", [32, 128, 1024])
def test_radixnet_matches_the_formula_in_every_group(neurons):
    depth = (neurons // 16).bit_length() - 1
    net = radixnet(neurons, 2 * depth, seed=5)
    for m in range(depth):
        first, second = net[m].weights, net[depth + m].weights
        for i in range(0, neurons, 7):
            wanted = {(i + step + neurons // 16 * a) % neurons for step in (0, 2**m) for a in range(16)}
            assert set(first.indices[first.indptr[i] : first.indptr[i + 1]].tolist()) == wanted
        # A later group is the first one with its columns in another order.
        assert sorted(columns_by_rows(first)) == sorted(columns_by_rows(second))


def columns_by_rows(matrix):
    csc = matrix.tocsc()
    return [tuple(np.sort(csc.indices[a:b])) for a, b in zip(csc.indptr, csc.indptr[1:], strict=False)]


def test_radixnet_paths_reach_everything_within_a_group():
    net = radixnet(128, 3, seed=1)
    reach = np.eye(128)
    for layer in net:
        reach = (layer.weights @ reach > 0).astype(float)
    assert reach.all()


def test_groups_have_different_permutations_and_seeds_matter():
    net = radixnet(1024, 18, seed=1)
    assert not same(net[0], net[6])
    assert not same(net[6], net[12])
    assert same(net[0], radixnet(1024, 1, seed=2)[0])
    assert not same(net[6], radixnet(1024, 18, seed=2)[6])


@pytest.mark.parametrize(("neurons", "bias"), [(1024, -0.30), (4096, -0.35), (16384, -0.40), (65536, -0.45)])
def test_challenge_bias(neurons, bias):
    assert challenge_bias(neurons) == bias
    layer = radixnet(neurons, 1)[0]
    assert (layer.bias == np.float32(bias)).all()
    assert layer.activation == Activation("clip", 32.0)


def test_radixnet_random_weights():
    net = radixnet(1024, 3, weights="random", seed=4)
    data = net[1].weights.data
    assert data.min() >= 1 / 32
    assert data.max() < 3 / 32
    assert abs(data.mean() - 1 / 16) < 1e-3
    assert not np.array_equal(data, net[2].weights.data)
    assert not np.array_equal(data, radixnet(1024, 3, weights="random", seed=5)[1].weights.data)
    assert radixnet(1024, 1, bias=0.5, clip=2, dtype="float64")[0].bias.dtype == np.float64


@pytest.mark.parametrize("make", KINDS)
def test_layers_come_in_any_order_and_networks_travel(make):
    net = make(256, 6, seed=3)
    late, early = net[5], net[2]
    again = pickle.loads(pickle.dumps(make(256, 6, seed=3)))
    assert same(again[2], early)
    assert same(again[5], late)
    assert sum(layer.edges for layer in net) == net.edges
    assert not same(early, make(256, 6, seed=4)[2]) or make is radixnet
    assert make(256, 2, dtype="float64")[1].weights.dtype == np.float64


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.data(), st.integers(0, 2**31))
def test_distinct_columns(rows, width, data, seed):
    degree = data.draw(st.integers(1, width))
    columns = distinct_columns(np.random.default_rng(seed), rows, width, degree)
    assert columns.shape == (rows, degree)
    assert columns.min() >= 0
    assert columns.max() < width
    assert (np.diff(columns, axis=1) > 0).all()


@pytest.mark.parametrize(("width", "degree"), [(64, 3), (16, 8)])
def test_distinct_columns_are_uniform(width, degree):
    columns = distinct_columns(np.random.default_rng(0), 20_000, width, degree)
    counts = np.bincount(columns.ravel(), minlength=width)
    expected = columns.size / width
    assert (abs(counts - expected) < 6 * np.sqrt(expected)).all()


def test_random_network_of_widths():
    net = random_network((784, 256, 10), degree=16, bias=0.25, activation="tanh", output_activation="identity")
    assert net.widths == (784, 256, 10)
    assert net.edges == 16 * 266
    assert str(net[0].activation) == "tanh"
    assert str(net[1].activation) == "identity"
    assert (net[1].bias == 0.25).all()
    assert 0.2 < net[0].weights.data.std() / np.sqrt(2 / 16) < 1.1


def test_community_hides_its_structure():
    net = community(2048, 2, degree=32, communities=8, inside=0.9, seed=1)
    weights = net[0].weights
    degrees, popularity = np.diff(weights.indptr), np.bincount(weights.indices, minlength=2048)
    assert abs(degrees.mean() - 32) < 1
    assert degrees.max() > 5 * degrees.mean()
    assert popularity.max() > 4 * popularity.mean()
    blocks = np.add.reduceat(np.add.reduceat(weights.toarray() != 0, range(0, 2048, 256), 0), range(0, 2048, 256), 1)
    assert blocks.max() < 1.6 * blocks.mean()
    loose = community(2048, 2, degree=32, communities=8, inside=0.0, skew=0, seed=1)[0].weights
    assert np.diff(loose.indptr).tolist() == [32] * 2048
    # A network with communities has large singular values beyond the first; one without has not.
    second = [np.linalg.svd((w.toarray() != 0) * 1.0, compute_uv=False)[1] for w in (weights, loose)]
    assert second[0] > 2 * second[1]


def test_community_communities_continue_from_layer_to_layer():
    """Products of two layers still show the communities, so the hidden assignment of the middle is shared."""
    net = community(512, 2, degree=16, communities=4, inside=1.0, skew=0, seed=2)
    product = ((net[1].weights != 0).astype(int) @ (net[0].weights != 0).astype(int)).toarray() > 0
    assert product.mean() <= 0.26


def test_community_at_extremes():
    assert community(2, 1, degree=1)[0].edges == 2
    full = community((64, 64, 8), degree=32, communities=8, inside=1.0, skew=3)
    for layer in full:
        assert np.diff(layer.weights.indptr).min() >= 1
    assert sum(layer.edges for layer in full) == full.edges


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: radixnet(1000, 1), "neurons: 1000"),
        (lambda: radixnet(16, 1), "neurons: 16"),
        (lambda: radixnet(1024, 0), "layers: 0"),
        (lambda: radixnet(1024.5, 1), "neurons: 1024.5 is not a whole number"),
        (lambda: radixnet(1024, 1, weights="odd"), "weights: 'odd'"),
        (lambda: radixnet(1024, 1, seed=-1), "seed: -1"),
        (lambda: radixnet(1024, 1, bias=float("nan")), "bias: nan"),
        (lambda: radixnet(1024, 1, bias="x"), "bias: 'x' is not a number"),
        (lambda: radixnet(1024, 1, clip=0), "clip"),
        (lambda: radixnet(1024, 1, dtype="int8"), "dtype int8"),
        (lambda: radixnet(1024, 1, dtype="nonsense"), "dtype 'nonsense'"),
        (lambda: random_network(16, 2), "degree: 32 is more than the 16 inputs of layer 1"),
        (lambda: random_network(64), "layers: give"),
        (lambda: random_network((64, 64), 2), "leave one of them out"),
        (lambda: random_network((64,)), "at least an input"),
        (lambda: random_network((64, 0)), r"neurons\[1\]: 0"),
        (lambda: random_network("64", 2), r"neurons"),
        (lambda: random_network(64, 2, activation="odd"), "unknown activation"),
        (lambda: community(32, 2), "degree: 32 is more than half of the 32 inputs"),
        (lambda: community(64, 2, inside=1.5), "inside: 1.5"),
        (lambda: community(64, 2, skew=-1), "skew: -1"),
        (lambda: community(64, 2, communities=65), "communities: 65"),
    ],
)
def test_bad_arguments(call, words):
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
