"""Stores of every format version, as they were written then, must open, verify and give what they gave."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

import dasksdnn as sdnn
from dasksdnn.network import Activation, Layer, Network
from dasksdnn.partition.partition import Partition
from dasksdnn.store.locating import generations

GOLDEN = sorted((Path(__file__).resolve().parents[2] / "storage" / "golden").glob("v*/*.zarr"))


def test_there_are_some():
    assert {path.parent.name for path in GOLDEN} == {"v1"}
    assert {path.stem for path in GOLDEN} == {"mixed", "radixnet", "trained"}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_golden(path):
    with np.load(path.with_suffix(".npz")) as file:
        expected = dict(file)
    assert sdnn.verify(path) == []
    store = sdnn.open_store(path)
    assert list(store.widths) == expected["widths"].tolist()
    assert [str(a) for a in store.activations] == expected["activations"].tolist()
    np.testing.assert_array_equal(np.concatenate(store.owner), expected["owner"])
    for k, layer in enumerate(store.network):
        for name in ("indptr", "indices", "data"):
            np.testing.assert_array_equal(getattr(layer.weights, name), expected[f"{name}{k}"])
        np.testing.assert_array_equal(layer.bias, expected[f"bias{k}"])
    assert store.comm_plan().volume == store.provenance.get("volume", 0)
    y = np.empty_like(expected["y"])
    sdnn.infer(store, expected["x"], out=y)
    np.testing.assert_allclose(y, expected["y"], rtol=1e-5 if store.dtype == np.float32 else 1e-12)


def test_the_trained_one():
    """Each generation halved all values; moments are the squares of what they belong to."""
    (path,) = (path for path in GOLDEN if path.stem == "trained")
    with np.load(path.with_suffix(".npz")) as file:
        expected = dict(file)
    assert generations(path) == [0, 2, 3]
    for number, training in ((0, None), (2, {"epoch": 2, "loss": 0.05}), (3, {"epoch": 3, "loss": 0.1 / 3})):
        store = sdnn.open_store(path, number)
        assert (store.generation, store.training) == (number, training)
        for k, layer in enumerate(store.network):
            np.testing.assert_array_equal(layer.weights.data, expected[f"data{k}"] * 2 ** (3 - number))
            np.testing.assert_array_equal(layer.bias, expected[f"bias{k}"] * 2 ** (3 - number))
        for window in store.iter_windows():
            assert set(window.extra) == ({"data_first", "bias_first"} if training else set())
            for name in window.extra:
                value = store.array(window, name.partition("_")[0]).read()
                np.testing.assert_array_equal(store.array(window, name).read(), value**2)


def test_the_example_of_the_specification(tmp_path):
    """The numbers of storage/spec/v1.md, section 13."""
    first = scipy.sparse.csr_array(np.array([[1, 0, 2, 0], [0, 3, 0, 0], [0, 0, 4, 5]], np.float32))
    second = scipy.sparse.csr_array(np.array([[6, 7, 0], [0, 8, 9]], np.float32))
    layers = [Layer(first, np.array([0.1, 0.2, 0.3])), Layer(second, np.zeros(2), Activation("clip", 32))]
    net = Network.from_layers(layers, "tiny")
    partition = Partition.from_owner(net, [np.array([0, 0, 1, 1]), np.array([0, 1, 1]), np.array([1, 0])])
    store = sdnn.save(net, tmp_path / "net.zarr", partition=partition)
    assert store.array(store.windows(0)[0], "offsets").read().tolist() == [0, 0, 0, 0, 2, 2, 1, 3, 4, 4, 2, 6]
    expected = [
        {"rows": [0, 1], "columns": [0, 1, 2, 0, 1, 2], "indptr": [0, 2, 0, 2], "indices": [0, 2, 1, 2]},
        {"rows": [1, 2, 0], "columns": [2, 3, 1, 1, 2, 0], "indptr": [0, 1, 3, 0, 2], "indices": [2, 0, 1, 0, 2]},
    ]
    for part, arrays in enumerate(expected):
        (window,) = store.windows(part)
        assert {name: store.array(window, name).read().tolist() for name in arrays} == arrays
    assert store.block(1, 1).data.tolist() == [7, 6]
    assert (store.comm_plan().volume, store.comm_plan().messages, store.edges) == (5, 4, 9)
