import numpy as np
import pytest
import scipy.sparse

from dasksdnn.errors import InputError
from dasksdnn.network import Activation, Layer, Network


def csr(rows, cols, entries, dtype=np.float32):
    row, col, value = zip(*entries, strict=True)
    return scipy.sparse.coo_array((np.array(value, dtype), (row, col)), shape=(rows, cols))


def test_a_layer_is_canonical():
    unsorted = scipy.sparse.csr_array((np.array([1.0, 2.0, 0.0]), [2, 0, 1], [0, 2, 3]), shape=(2, 3))
    layer = Layer(unsorted, np.zeros(2), Activation("relu"))
    assert layer.weights.indices.tolist() == [0, 2, 1]
    assert layer.weights.data.tolist() == [2.0, 1.0, 0.0]  # a stored zero is part of the pattern
    assert layer.weights.has_sorted_indices
    assert unsorted.indices.tolist() == [2, 0, 1]  # what the user gave is left alone
    assert layer.edges == 3
    assert layer.weights.dtype == layer.bias.dtype == np.float64
    assert Layer(scipy.sparse.csr_array(np.eye(2, dtype=int)), np.zeros(2)).weights.dtype == np.float32


@pytest.mark.parametrize(
    ("weights", "bias", "message"),
    [
        (np.eye(2), np.zeros(2), "not a SciPy sparse array"),
        (csr(2, 2, [(0, 1, 1), (0, 1, 2)]), np.zeros(2), "1 duplicate entries, the first at row 0, column 1"),
        (csr(2, 2, [(1, 1, np.nan)]), np.zeros(2), "row 1 has a weight that is NaN or infinite"),
        (csr(2, 2, [(1, 1, np.inf)]), np.zeros(2), "row 1 has a weight"),
        (csr(2, 2, [(1, 1, 1)]), np.zeros(3), r"bias has shape \(3,\), expected \(2,\)"),
        (csr(2, 2, [(1, 1, 1)]), np.array([0, np.nan]), "the bias of row 1"),
    ],
)
def test_bad_layers(weights, bias, message):
    with pytest.raises(InputError, match=message):
        Layer(weights, bias)


def test_duplicates_in_csr_are_found():
    twice = scipy.sparse.csr_array((np.ones(3), [1, 1, 0], [0, 2, 3]), shape=(2, 2))
    with pytest.raises(InputError, match="1 duplicate"):
        Layer(twice, np.zeros(2))


@pytest.mark.parametrize("text", ["relu", "clip:32", "leaky_relu:0.1", "sigmoid", "tanh", "identity"])
def test_activations_as_text(text):
    assert str(Activation.parse(text)) == text
    assert Activation.parse(Activation.parse(text)) == Activation.parse(text)


@pytest.mark.parametrize("text", ["softplus", "clip", "clip:x", "clip:-1", "relu:3", "leaky_relu:nan", ""])
def test_bad_activations(text):
    with pytest.raises(InputError):
        Activation.parse(text)


def chain():
    return [
        Layer(csr(3, 4, [(0, 0, 1), (2, 3, 2)]), np.zeros(3)),
        Layer(csr(2, 3, [(1, 2, 5)], np.float64), np.ones(2), Activation("tanh")),
    ]


def test_a_network_of_layers():
    net = Network.from_layers(chain(), "small")
    assert (net.widths, len(net), net.edges, net.dtype) == ((4, 3, 2), 2, 3, np.float64)
    assert [layer.weights.dtype for layer in net] == [np.float64] * 2
    assert net[-1].activation == Activation("tanh")
    assert repr(net) == "<dasksdnn.Network 'small': 4-3-2, 3 edges, float64>"
    with pytest.raises(IndexError):
        net[2]


def test_bad_networks():
    with pytest.raises(InputError, match=r"layer 2 has shape \(3, 4\), which does not chain: expected \(3, 3\)"):
        Network.from_layers([chain()[0], chain()[0]])[1]
    with pytest.raises(InputError, match="at least one layer"):
        Network.from_layers([])
    with pytest.raises(InputError, match="at least one neuron"):
        Network((3, 0), lambda k: chain()[0])
    with pytest.raises(InputError, match="float16"):
        Network((3, 3), lambda k: chain()[0], dtype=np.float16)


def test_edges_are_counted_where_they_are_not_known():
    layers = chain()
    net = Network((4, 3, 2), layers.__getitem__)
    assert "edges" not in repr(net)
    assert net.edges == 3
    assert "3 edges" in repr(net)
