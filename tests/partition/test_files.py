"""Partitions as files: what is saved comes back, what others bring is taken, what does not fit is refused in one line."""

import json
from contextlib import suppress

import numpy as np
import pytest
from networks import random_net, random_partition

from dasksdnn.errors import InputError, OutputExistsError
from dasksdnn.network import Layer, Network
from dasksdnn.partition import files
from dasksdnn.partition.partition import Partition, partition


@pytest.fixture(scope="module")
def net():
    return random_net(7, layers=4, widest=40)


@pytest.fixture
def saved(net, tmp_path):
    partition(net, 3, method="random", epsilon=0.1, seed=5).save(tmp_path / "p.npz")
    return tmp_path / "p.npz"


def rewrite(path, changes=None, /, **arrays):
    """Change some of what a file holds; None takes it out."""
    with np.load(path) as old:
        held = {**old, **arrays}
    if changes is not None:
        record = {**json.loads(str(held["metadata"])), **changes}
        held["metadata"] = np.array(json.dumps({k: v for k, v in record.items() if v is not ...}))
    np.savez(path, **{name: value for name, value in held.items() if value is not None})


def test_round_trip(net, saved):
    made, found = partition(net, 3, method="random", epsilon=0.1, seed=5), Partition.load(saved, net)
    for a, b in zip(made.owner, found.owner, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a.dtype, b.flags.writeable) == (b.dtype, False)
    for name in ("nparts", "method", "epsilon", "seed", "volume", "messages", "imbalance"):
        assert getattr(made, name) == getattr(found, name)
    assert (made.reused, found.reused) == (False, True)
    assert ", reused" in repr(found)
    assert ", reused" not in repr(made)


def test_given_ones_are_saved_too(net, tmp_path):
    given = random_partition(net, 4)
    given.save(str(tmp_path / "p"))
    found = Partition.load(str(tmp_path / "p"), net)
    assert (found.method, found.epsilon, found.seed, found.nparts) == ("given", None, None, 4)


def test_files_are_kept(net, saved):
    before = saved.read_bytes()
    with pytest.raises(OutputExistsError, match="is kept"):
        random_partition(net, 2).save(saved)
    assert saved.read_bytes() == before
    random_partition(net, 2).save(saved, overwrite=True)
    assert Partition.load(saved, net).nparts == 2
    assert [p.name for p in saved.parent.iterdir()] == ["p.npz"]


def test_later_fields_do_not_disturb(net, saved):
    rewrite(saved, {"mood": {"good": [1]}}, more=np.arange(3))
    assert Partition.load(saved, net).seed == 5


def test_costs_are_counted_anew(net, saved):
    rewrite(saved, {"volume": 0, "metrics": {"volume": 0}})
    assert Partition.load(saved, net).volume == partition(net, 3, method="random", seed=5).volume > 0


@pytest.mark.parametrize("form", ["npy", "one", "owner_", "arr_"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_owners_from_elsewhere(net, tmp_path, form, dtype):
    owner = [part.astype(dtype) for part in random_partition(net, 3).owner]
    path = tmp_path / "owner"
    with open(path, "wb") as file:
        if form == "npy":
            np.save(file, np.concatenate(owner))
        elif form == "one":
            np.savez(file, anything=np.concatenate(owner))
        else:
            np.savez(file, **{f"{form}{k}": owner[k] for k in reversed(range(len(owner)))})
    found = Partition.load(path, net)
    assert (found.method, found.nparts, found.reused) == ("given", 3, False)
    assert found.volume == random_partition(net, 3).volume
    for a, b in zip(owner, found.owner, strict=True):
        np.testing.assert_array_equal(a, b)


def test_more_layers_than_ten(tmp_path):
    net = Network.from_layers([Layer(np_layer, np.zeros(3)) for np_layer in [_identity(3)] * 12])
    owner = [np.full(3, k % 3) for k in range(13)]
    np.savez(tmp_path / "o.npz", *owner)
    assert [part[0] for part in Partition.load(tmp_path / "o.npz", net).owner] == [k % 3 for k in range(13)]


def _identity(n):
    import scipy.sparse

    return scipy.sparse.csr_array(np.eye(n, dtype=np.float32))


def refused(path, net, *says):
    with pytest.raises(InputError) as caught:
        Partition.load(path, net)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    for words in says:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"format": "else"}, "another format"),
        ({"format": ...}, "metadata cannot be used"),
        ({"version": 2}, "version 2 is newer than 1: upgrade"),
        ({"version": "x"}, "metadata cannot be used"),
        ({"nparts": ...}, "nparts is missing"),
        ({"pattern": ...}, "pattern is missing"),
        ({"nparts": 2}, "must be parts 0 to 1"),
        ({"nparts": 10**9}, "use fewer"),
        ({"nparts": True}, "nparts is True"),
        ({"nparts": 0}, "nparts 0 is too small"),
        ({"method": 3}, "method is 3"),
        ({"method": [1]}, "method is [1]"),
        ({"epsilon": "much"}, "epsilon is 'much'"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seconds": None}, "seconds is None"),
        ({"seconds": float("inf")}, "Infinity is not a number"),
        ({"pattern": "0" * 64}, "of another network"),
    ],
)
def test_tampered_metadata(net, saved, metadata, says):
    rewrite(saved, metadata)
    refused(saved, net, says)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"metadata": np.array("{")}, "metadata cannot be used"),
        ({"metadata": np.array("[" * 100_000)}, "metadata cannot be used"),
        ({"metadata": np.array('{"format": "dasksdnn-partition", "version": 1, "seconds": 1e999}')}, "seconds is inf"),
        ({"metadata": np.array([1, 2])}, "metadata cannot be used"),
        ({"owner": None}, "another format"),
        ({"owner": np.zeros(3, int)}, "has shape (3,)"),
        ({"widths": None}, "is for layers of"),
        ({"widths": np.arange(5)}, "is for layers of 0, 1, 2, 3"),
    ],
)
def test_tampered_arrays(net, saved, arrays, says):
    rewrite(saved, **arrays)
    refused(saved, net, says)


def test_damaged_files(net, saved):
    whole = saved.read_bytes()
    for cut in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:cut])
        refused(saved, net, "or damaged", "save the partition again")
    for at in range(0, len(whole), 7):
        saved.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with suppress(InputError):  # a byte that nothing depends on may change
            assert Partition.load(saved, net).volume == partition(net, 3, method="random", seed=5).volume


def test_files_that_are_something_else(net, tmp_path):
    path = tmp_path / "x"
    refused(path, net, "No such file", "check the path")
    refused(tmp_path, net, "Is a directory")
    path.write_text("0 1 1 0\n")
    refused(path, net, "or damaged")
    with open(path, "wb") as file:
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    refused(path, net, "Object arrays")
    owner = list(random_partition(net, 3).owner)
    for held, says in [
        ({"a": owner[0], "b": owner[1]}, "has arrays a, b: give one array, or owner_0"),
        ({"owner_1": owner[0], "owner_2": owner[1]}, "has arrays owner_1, owner_2"),
        ({"owner_0": owner[0], "arr_0": owner[0]}, "has arrays arr_0, owner_0"),
        ({}, "has arrays none"),
        ({f"owner_{k}": part for k, part in enumerate(owner[:-1])}, "is for layers of"),
        ({f"owner_{k}": part.astype(float) for k, part in enumerate(owner)}, "dtype float"),
        ({"x": np.concatenate(owner)[:-1]}, "inputs included"),
        ({"x": np.float64(3)}, "has shape ()"),
    ]:
        with open(path, "wb") as file:
            np.savez(file, **held)
        refused(path, net, says)


def test_foreign_networks(net, saved):
    refused(saved, random_net(8, layers=4, widest=40), "is for layers of", "partition this network")
    layers = list(net)
    last = layers[-1]
    weights = last.weights.copy()
    weights.data = weights.data * np.float32(2)
    assert Partition.load(saved, Network.from_layers([*layers[:-1], Layer(weights, last.bias)])).nparts == 3
    reversed_ = last.weights[:, ::-1]
    refused(saved, Network.from_layers([*layers[:-1], Layer(reversed_, last.bias)]), "of another network")


def test_one_layer_at_a_time(net, saved):
    loads = []

    def load(k):
        loads.append(k)
        return net[k]

    Partition.load(saved, Network(net.widths, load))
    assert loads == [0, 1, 2, 3]


def test_a_file_of_a_partition_has_no_pickles(net):
    assert b"numpy.core" not in files.dump(random_partition(net, 2))
