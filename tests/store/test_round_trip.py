"""What is written is what is read: networks, blocks, dask arrays, owners and orders."""

import itertools
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import random_net, random_partition

import dasksdnn as sdnn
from dasksdnn.errors import InputError, StoreError
from dasksdnn.network import Activation, Layer, Network
from dasksdnn.store import encoding
from dasksdnn.store.encoding import CheckedArray, write_array
from dasksdnn.store.layout import CHUNK


@st.composite
def cases(draw, dtypes=("float32", "float64")):
    """A network, a partition and a window size."""
    seed = draw(st.integers(0, 2**32))
    dtype = draw(st.sampled_from(dtypes))
    net = random_net(seed, layers=draw(st.integers(1, 5)), widest=draw(st.sampled_from([2, 9, 40])), dtype=dtype)
    nparts = draw(st.integers(1, min(7, max(net.widths))))
    return net, random_partition(net, nparts, seed % 1000), draw(st.sampled_from([1, 300, 2000, None]))


relaxed = settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@settings(relaxed, max_examples=6)
@given(case=cases())
def test_everything_comes_back(case, same_network):
    net, partition, window = case
    with tempfile.TemporaryDirectory() as folder:
        store = sdnn.save(net, Path(folder) / "net.zarr", partition=partition, window=window)
        assert sdnn.verify(store) == []
        same_network(store.network, net)
        for found, given_owner in zip(store.owner, partition.owner, strict=True):
            np.testing.assert_array_equal(found, given_owner)
        assert (store.nparts, store.edges, store.widths) == (partition.nparts, net.edges, net.widths)
        check_order(store, partition)
        check_blocks(store, net)


def check_order(store, partition):
    """Rows belong to the part; columns are its own in its order, then sender by sender in the sender's order."""
    volume = 0
    for k in range(len(store)):
        order = store.order(k)
        for part in range(store.nparts):
            rows, columns = store.rows(part, k), store.columns(part, k)
            assert sorted(rows) == np.flatnonzero(partition.owner[k + 1] == part).tolist()
            own = order.members[part].size
            expected = list(order.members[part])
            received = set(columns[own:].tolist())
            for sender in range(store.nparts):
                expected += [j for j in order.members[sender] if sender != part and j in received]
            assert columns.tolist() == expected
            volume += columns.size - own
    assert volume == partition.volume


def check_blocks(store, net):
    for k, part in itertools.product(range(len(store)), range(store.nparts)):
        block = store.block(part, k)
        expected = net[k].weights[store.rows(part, k)][:, store.columns(part, k)].toarray()
        np.testing.assert_array_equal(store.row_block(part, k).toarray(), expected)
        as_sparse = store.row_block(part, k, "sparse")
        assert isinstance(as_sparse, sparse.GCXS)
        np.testing.assert_array_equal(as_sparse.todense(), expected)
        np.testing.assert_array_equal(block.bias, net[k].bias[block.rows])
        # A part receives nothing that it does not use.
        assert set(range(block.own, block.columns.size)) <= set(block.indices.tolist())


@settings(relaxed, max_examples=8)
@given(case=cases(dtypes=["float32"]))  # sparse compiles its kernels anew for each dtype
def test_dask_layers_chain(case):
    net, partition, window = case
    with tempfile.TemporaryDirectory() as folder:
        store = sdnn.save(net, Path(folder) / "net.zarr", partition=partition, window=window)
        x = np.random.default_rng(0).random((net.widths[0], 3)).astype(net.dtype)
        y, z = x, x[np.concatenate(store.order(0).members)]
        for k, layer in enumerate(net):
            parts, whole = store.dask_layer(k), store.dask_layer(k, order="original")
            counts = np.bincount(store.owner[k + 1], minlength=store.nparts).tolist()
            assert parts.chunks[0] == (tuple(counts) if sum(counts) > 1 else (1,))
            assert (parts.dtype, parts.shape, type(parts._meta)) == (net.dtype, layer.weights.shape, sparse.GCXS)
            np.testing.assert_array_equal(whole.compute(scheduler="sync").todense(), layer.weights.toarray())
            for part, block in enumerate(parts.blocks):
                chunk = block.compute(scheduler="sync")
                assert isinstance(chunk, sparse.GCXS)
                assert chunk.shape == (parts.chunks[0][part], net.widths[k])
            z, y = parts @ z, layer.weights @ y
        found = z.compute(scheduler="sync")
        np.testing.assert_allclose(found, y[np.concatenate(store.order(len(store)).members)], rtol=1e-4, atol=1e-5)


def test_dask_layers_multiply_with_each_other(tmp_path):
    net = random_net(11, layers=3, widest=40)
    store = sdnn.save(net, tmp_path / "net.zarr", partition=random_partition(net, 4), window=2000)
    first, second = (store.dask_layer(k, kind="coo") for k in (0, 1))
    expected = (net[1].weights @ net[0].weights).toarray()
    rows, columns = (np.concatenate(store.order(k).members) for k in (2, 0))
    found = (second @ first).compute(scheduler="sync")
    np.testing.assert_allclose(found.todense(), expected[np.ix_(rows, columns)], rtol=1e-4, atol=1e-5)


def test_bad_arguments(sound):
    store = sdnn.open_store(sound)
    calls = (
        lambda: store.block(3, 0),
        lambda: store.block(0, 4),
        lambda: store.block(-1, 0),
        lambda: store.row_block(0, 0, "dense"),
        lambda: store.dask_layer(4),
        lambda: store.dask_layer(0, order="rows"),
        lambda: store.dask_layer(0, kind="csr"),
        lambda: sdnn.save(store.network, sound.parent / "other.zarr", window=0),
    )
    for call in calls:
        with pytest.raises(InputError):
            call()


def test_a_partition_of_another_network(tmp_path):
    with pytest.raises(InputError, match="partition this network"):
        sdnn.save(random_net(1), tmp_path / "net.zarr", partition=random_partition(random_net(2), 1))


def test_a_store_travels(sound, tmp_path, monkeypatch):
    monkeypatch.chdir(sound.parent)
    store = sdnn.open_store(sound.name)
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(store.block(0, 1).data, store_block(sound).data)
    np.testing.assert_array_equal(
        store.dask_layer(0).compute(scheduler="sync").shape, (store.widths[1], store.widths[0])
    )
    assert (again.digest, again.widths) == (store.digest, store.widths)
    np.testing.assert_array_equal(again.block(0, 1).data, store_block(sound).data)


def store_block(path):
    return sdnn.open_store(path).block(0, 1)


def test_a_replaced_store_is_noticed(damaged):
    store = sdnn.open_store(damaged)
    packed, lazy = pickle.dumps(store), store.dask_layer(0)
    sdnn.save(random_net(8), damaged, overwrite=True)
    with pytest.raises(StoreError, match="was replaced"):
        pickle.loads(packed)
    with pytest.raises(StoreError, match="was replaced"):
        lazy.compute(scheduler="sync")
    assert sdnn.open_store(damaged).dask_layer(0).name != lazy.name


def test_digest_is_of_the_content(tmp_path):
    net, partition = random_net(3), random_partition(random_net(3), 2)
    a, b = (sdnn.save(net, tmp_path / name, partition=partition) for name in "ab")
    assert a.digest == b.digest
    bias = [Layer(layer.weights, layer.bias + 1, layer.activation) for layer in net]
    assert sdnn.save(Network.from_layers(bias, net.name), tmp_path / "c", partition=partition).digest != a.digest


def test_windows_grow_with_bytes(tmp_path):
    net = sdnn.radixnet(64, 12)
    assert len(sdnn.save(net, tmp_path / "one.zarr").manifest.windows) == 1
    partition = sdnn.partition(net, 2, method="block")
    many = sdnn.save(net, tmp_path / "many.zarr", partition=partition, window=20_000)
    windows = many.windows(1)
    assert [w.number for w in windows] == list(range(len(windows)))
    assert len(windows) == 6  # a block takes about 7.3 kB: two to a window
    with pytest.raises(InputError, match="usable"):
        sdnn.save(net, tmp_path / "none.zarr", window=-1)


def test_exact_activation_parameters(tmp_path, same_network):
    layers = [Layer(scipy.sparse.csr_array(np.eye(2)), np.zeros(2), Activation("leaky_relu", 1 / 3))]
    layers.append(Layer(scipy.sparse.csr_array(np.eye(2)), np.zeros(2), Activation("clip", 1e-7)))
    net = Network.from_layers(layers)
    same_network(sdnn.save(net, tmp_path / "net.zarr").network, net)


def test_stored_zeros_are_kept(tmp_path):
    weights = scipy.sparse.csr_array((np.zeros(2, np.float32), [1, 2], [0, 1, 1, 2]), shape=(3, 4))
    store = sdnn.save(Network.from_layers([Layer(weights, np.zeros(3))]), tmp_path / "net.zarr")
    assert (store.edges, store.network[0].weights.nnz) == (2, 2)


def test_from_a_store_onto_itself(damaged, same_network):
    net = sdnn.open_store(damaged).network
    held = Network.from_layers(list(net), net.name)
    sdnn.save(net, damaged, partition=sdnn.partition(net, 2, method="random"), overwrite=True)
    same_network(sdnn.open_store(damaged).network, held)


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 5 * CHUNK + 7])
@pytest.mark.parametrize("dtype", ["uint16", "float32", "int64"])
def test_arrays_of_many_chunks(tmp_path, size, dtype):
    import zarr

    values = (np.arange(size) * 7919 % 65521).astype(dtype)
    location = zarr.storage.LocalStore(tmp_path / "a")
    entry = write_array(location, "x", values)
    assert encoding.ArrayEntry.from_json(entry.as_json()) == entry
    array = CheckedArray(location, "x", entry, "x")
    for start, stop in (
        (0, size),
        (size // 2, size),
        (max(0, size - 1), size),
        (min(3, size), size // 3),
        (size, size),
    ):
        np.testing.assert_array_equal(array.read(start, max(start, stop)), values[start : max(start, stop)])
    pieces = list(array.pieces(0, size))
    assert sum(piece.size for _, piece in pieces) == size
    assert all(piece.size <= CHUNK * encoding.PIECE for _, piece in pieces)
