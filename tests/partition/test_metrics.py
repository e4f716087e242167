"""The recount against a brute-force count that is written plainly."""

import itertools
import json

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from partition_cases import brute_force, busiest, network, patterns

from dasksdnn.errors import InputError
from dasksdnn.partition.metrics import Recount, least_load, recount


@settings(deadline=None)
@given(patterns(), st.integers(1, 5), st.integers(0, 2**32))
def test_recount_is_brute_force(layers, nparts, seed):
    rng = np.random.default_rng(seed)
    widths = [layers[0].shape[1], *(len(p) for p in layers)]
    owner = [rng.integers(0, nparts, n).astype(np.int16) for n in widths]
    found = recount(network(layers), owner, nparts)
    volume, messages, send, imbalance = brute_force(layers, owner, nparts)
    assert found.volume_per_layer.tolist() == volume
    assert found.messages_per_layer.tolist() == messages
    assert found.send.tolist() == send
    assert found.imbalance_per_layer == pytest.approx(imbalance)
    assert (found.volume, found.messages) == (sum(volume), sum(messages))
    assert found.max_send == max(map(sum, send))
    assert found.imbalance == pytest.approx(max(imbalance))
    words, most_messages, nonzeros = busiest(layers, owner, nparts)
    assert found.max_send_per_layer.tolist() == words
    assert found.max_messages_per_layer.tolist() == most_messages
    assert found.max_nonzeros_per_layer.tolist() == nonzeros
    assert (found.best_imbalance_per_layer <= found.imbalance_per_layer + 1e-12).all()


def test_max_messages_counts_every_layer():
    every = np.ones((2, 2))
    found = recount(network([every, every]), [np.array([0, 1])] * 3, 2)
    assert (found.messages, found.max_messages) == (4, 2)


def test_stored_zeros_count():
    weights = scipy.sparse.csr_array((np.zeros(1), ([0], [1])), shape=(1, 2))
    count = Recount(2)
    count.add(weights, np.array([0, 1]), np.array([0]))
    assert count.result().volume == 1


def test_as_dict_is_json():
    found = recount(network([np.eye(3)]), [np.array([0, 1, 1]), np.array([1, 1, 0])], 2)
    back = json.loads(json.dumps(found.as_dict()))
    assert back["volume"] == 2
    assert back["send"] == [[0, 1], [1, 0]]


def test_nothing_added():
    found = Recount(3).result()
    assert (found.volume, found.messages, found.imbalance) == (0, 0, 1.0)
    for name in ("max_send_per_layer", "max_messages_per_layer", "max_nonzeros_per_layer"):
        assert getattr(found, name).dtype == np.int64


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(1, 4))
def test_least_load_is_a_lower_bound(rows, nparts):
    choices = itertools.product(range(nparts), repeat=len(rows))
    best = min(np.bincount(c, weights=rows, minlength=nparts).max() if rows else 0 for c in choices)
    assert least_load(np.array(rows, int), nparts) <= best


def test_least_load_sees_crowded_rows():
    assert least_load(np.array([4, 4, 4]), 2) == 8
    assert least_load(np.array([9, 1, 1]), 2) == 9


@pytest.mark.parametrize(
    ("owner_in", "owner_out", "message"),
    [
        ([0, 1], [0, 1, 1], "layer 1: input owners have shape"),
        ([0, 1, 1], [0], "layer 1: output owners have shape"),
        ([0, 1, 2], [0, 1, 1], "layer 1: input owners must be parts 0 to 1"),
        ([0, 1, 1], [0, -1, 1], "layer 1: output owners must be parts 0 to 1"),
        ([0.0, 1.0, 1.0], [0, 1, 1], "dtype float64: give int"),
    ],
)
def test_owners_that_do_not_fit(owner_in, owner_out, message):
    with pytest.raises(InputError, match=message):
        recount(network([np.eye(3)]), [np.array(owner_in), np.array(owner_out)], 2)


def test_wrong_number_of_owner_arrays():
    with pytest.raises(InputError, match="1 owner arrays for 1 layers: give 2"):
        recount(network([np.eye(3)]), [np.zeros(3, int)], 2)
