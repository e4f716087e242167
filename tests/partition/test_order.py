"""The order of a part's neurons: a permutation, repeatable, identical rows adjacent, and few reads that miss."""

import hashlib
import itertools
import os
import subprocess
import sys
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from partition_cases import patterns

import dasksdnn as sdnn
from dasksdnn.partition import order as module
from dasksdnn.partition.clusters import cluster
from dasksdnn.partition.order import misses, neuron_order
from dasksdnn.partition.walk import pairs, walk


def csr(pattern):
    return scipy.sparse.csr_array(np.asarray(pattern, np.float32))


def shuffled(pattern, seed=0):
    rng = np.random.default_rng(seed)
    return pattern[rng.permutation(pattern.shape[0])][:, rng.permutation(pattern.shape[1])]


def band(rows, width, gap=1):
    """Row i reads columns i, i + gap, ..., round the end."""
    columns = (np.arange(rows)[:, None] + gap * np.arange(width)) % rows
    return csr_of_columns(columns, rows)


def csr_of_columns(columns, width):
    rows = np.repeat(np.arange(len(columns)), columns.shape[1])
    return scipy.sparse.coo_array(
        (np.ones(rows.size, np.float32), (rows, columns.ravel())), (len(columns), width)
    ).tocsr()


def lru_misses(weights, order, capacity):
    """Columns read that are not among the last `capacity` distinct ones read: rows in this order, as a share."""
    held, count = OrderedDict(), 0
    for i in order:
        for j in weights.indices[weights.indptr[i] : weights.indptr[i + 1]].tolist():
            if j in held:
                held.move_to_end(j)
                continue
            count += 1
            held[j] = None
            if len(held) > capacity:
                held.popitem(last=False)
    return count / weights.nnz


def any_order(weights, caches=(1, 2)):
    """An order for patterns of any size: with caches so small that nothing fits, and any gain counts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CACHES", caches)
        patch.setattr(module, "WORTH", np.inf)
        return neuron_order(weights, np.arange(weights.shape[0]))


@pytest.mark.parametrize("steps", [0, module.STEPS])
@settings(deadline=None, max_examples=60)
@given(layers=patterns(most_layers=1, widest=30), seed=st.integers(0, 2**32))
def test_a_permutation_with_identical_rows_adjacent(steps, layers, seed):
    weights = csr(layers[0])
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(rng.random(weights.shape[0]) < 0.7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CACHES", (1, 2))
        patch.setattr(module, "WORTH", np.inf)
        patch.setattr(module, "STEPS", steps)
        order = neuron_order(weights, rows)
    assert sorted(order.tolist()) == rows.tolist()
    check_groups(layers[0], order)


def check_groups(pattern, order):
    """Rows that are equal are one run, ascending."""
    runs, last = {}, None
    for i in order.tolist():
        key = pattern[i].tobytes()
        assert key == last or key not in runs
        assert i > runs.get(key, -1)
        runs[key], last = i, key


ODD = {
    "no rows": np.zeros((0, 400)),
    "one row": np.ones((1, 400)),
    "nothing is read": np.zeros((400, 400)),
    "all rows alike": np.ones((400, 400)),
    "each reads its own": np.eye(400),
    "one column": np.ones((400, 1)),
    "one row reads all, the others nothing": np.vstack([np.ones((1, 400)), np.zeros((5, 400))]),
    "dense but for the diagonal": 1 - np.eye(400),
    "one column that all read": np.hstack([np.ones((400, 1)), np.eye(400)]),
    "wide": np.kron(np.eye(3), np.ones((2, 400))),
    "tall": np.tril(np.ones((900, 300))),
}


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("steps", [0, module.STEPS])
def test_odd_patterns(case, steps, monkeypatch):
    monkeypatch.setattr(module, "STEPS", steps)
    monkeypatch.setattr(module, "WORTH", np.inf)
    order = neuron_order(csr(ODD[case]), np.arange(len(ODD[case])))
    check_groups(ODD[case].astype(bool), order)
    assert sorted(order.tolist()) == list(range(len(ODD[case])))


def test_wide_indices_give_the_same():
    weights = sdnn.community(1024, 1)[0].weights
    wide = scipy.sparse.csr_array(weights)
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    rows = np.arange(1024)
    assert (neuron_order(weights, rows) == neuron_order(wide, rows)).all()


def test_memory_is_bounded():
    for net in (sdnn.community(8192, 1), sdnn.random_network(8192, 1), sdnn.radixnet(8192, 1)):
        weights, rows = net[0].weights, np.arange(8192)
        neuron_order(weights, rows)
        tracemalloc.start()
        try:
            neuron_order(weights, rows)
            assert tracemalloc.get_traced_memory()[1] < 40 * weights.nnz
        finally:
            tracemalloc.stop()


def test_what_fits_the_cache_keeps_its_order():
    weights = shuffled(band(2 ** module.CACHES[0], 8))
    assert (neuron_order(weights, np.arange(weights.shape[0])) == np.arange(weights.shape[0])).all()


def digest():
    networks = sdnn.community(1024, 1), sdnn.radixnet(8192, 13), sdnn.random_network(1024, 1)
    rows = [np.arange(net.widths[1])[::step] for net, step in zip(networks, (1, 1, 3), strict=True)]
    orders = [neuron_order(net[len(net) - 1].weights, r) for net, r in zip(networks, rows, strict=True)]
    return hashlib.sha256(b"".join(order.tobytes() for order in orders)).hexdigest()


def test_the_same_in_another_process():
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_order; print(test_order.digest())"
    )
    env = os.environ | {"PYTHONPATH": str(Path(sdnn.__file__).parents[1]), "PYTHONHASHSEED": "7"}
    told = subprocess.run([sys.executable, "-P", "-c", script], env=env, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == digest()


def home(neurons, k, communities):
    """Which community `sources.generators` hides each neuron of x_k in."""
    return np.random.default_rng([0, 3, k]).permutation(neurons) % communities


@pytest.mark.parametrize(("how", "communities"), [({}, 32), ({"inside": 0.5}, 32), ({"communities": 8}, 8)])
def test_hidden_communities_are_found(how, communities):
    weights = sdnn.community(4096, 2, **how)[1].weights
    truth = np.argsort(home(4096, 2, communities), kind="stable")
    shown, found = np.arange(4096), neuron_order(weights, np.arange(4096))
    for capacity in (160, 1024):
        before, after, best = (lru_misses(weights, order, capacity) for order in (shown, found, truth))
        assert best < before
        assert after < before - 0.95 * (before - best)


def test_a_part_of_whole_communities():
    """Most columns outside them are read once: they must not hold apart what belongs together."""
    weights = sdnn.community(16384, 1)[0].weights
    where = home(16384, 1, 128)
    rows = np.flatnonzero(where % 16 == 5)
    before, after, best = (
        lru_misses(weights, order, 160)
        for order in (rows, neuron_order(weights, rows), rows[np.argsort(where[rows], kind="stable")])
    )
    assert after < before - 0.95 * (before - best)


def test_a_thin_part_of_every_community():
    weights = sdnn.community(16384, 1)[0].weights
    rows = np.arange(0, 16384, 16)
    assert lru_misses(weights, neuron_order(weights, rows), 160) < 0.75 * lru_misses(weights, rows, 160)


def test_a_hidden_band_is_found():
    weights = shuffled(band(8192, 32))
    rows = np.arange(8192)
    assert lru_misses(weights, rows, 256) > 0.9
    assert lru_misses(weights, neuron_order(weights, rows), 256) < 0.06


def test_a_band_in_order_stays():
    rows = np.arange(8192)
    assert (neuron_order(band(8192, 32), rows) == rows).all()


def test_a_random_pattern_gets_no_worse():
    weights = sdnn.random_network(4096, 1)[0].weights
    rows = np.arange(4096)
    for order in (neuron_order(weights, rows), any_order(weights, module.CACHES)):
        for capacity in (160, 1024):
            assert lru_misses(weights, order, capacity) < lru_misses(weights, rows, capacity) + 0.01


def radix(k, neurons=16384):
    """Layer k + 1 of a RadiX-Net of ten layers a group, and its order."""
    weights = sdnn.radixnet(neurons, k + 1)[k].weights
    return weights, neuron_order(weights, np.arange(neurons))


@pytest.mark.parametrize("k", [0, 5, 8])
def test_radixnet_that_reads_along_memory_keeps_its_order(k):
    """Supernode i reads classes i and i + 2**k, so that going through i is going through memory."""
    _, order = radix(k)
    assert (order.reshape(-1, 16) == np.arange(1024)[:, None] + 1024 * np.arange(16)).all()


def test_radixnet_that_reads_here_and_there_becomes_a_chain():
    """Where columns are permuted, each supernode shares one of its two classes with the supernode before."""
    weights, order = radix(10 + 6)
    supernodes = order.reshape(-1, 16)
    assert (supernodes % 1024 == supernodes[:, :1] % 1024).all()
    columns = [set(weights.indices[weights.indptr[i] : weights.indptr[i + 1]].tolist()) for i in supernodes[:, 0]]
    shared = [len(a & b) for a, b in itertools.pairwise(columns)]
    assert np.mean(np.array(shared) == 16) > 0.9
    assert lru_misses(weights, order, 160) < 0.6 * lru_misses(weights, by_first(supernodes), 160)


def by_first(supernodes):
    return supernodes[np.argsort(supernodes[:, 0])].ravel()


@settings(deadline=None, max_examples=40)
@given(layers=patterns(most_layers=1, widest=20), most=st.integers(1, 20))
def test_clusters_are_bounded(layers, most):
    weights = csr(layers[0])
    label = cluster(weights, weights.T.tocsr(), most)
    assert label.dtype == np.int32
    assert np.bincount(label, minlength=1).max() <= most
    assert (label < weights.shape[0]).all()


def test_clusters_are_blocks():
    weights = shuffled(csr(np.kron(np.eye(10), np.ones((13, 9)))), 4)
    label = cluster(weights, weights.T.tocsr(), 50)
    block = weights.indices[weights.indptr[:-1]]
    reads_the_same = (weights[:, block] != 0).toarray()
    assert ((label[:, None] == label) == reads_the_same).all()


@settings(deadline=None, max_examples=40)
@given(layers=patterns(most_layers=1, widest=20), window=st.integers(1, 5), widest=st.integers(0, 20))
def test_a_walk_takes_what_it_shares_most_with(layers, window, widest):
    weights = csr(layers[0])
    transposed = weights.T.tocsr()
    order = walk(weights, transposed, window, widest).tolist()
    counted = layers[0][:, layers[0].sum(axis=0) <= widest].astype(int)
    share = counted @ counted.T
    assert sorted(order) == list(range(len(layers[0])))
    for t in range(1, len(order)):
        score = share[order[max(0, t - window) : t]].sum(axis=0)
        left = order[t:]
        assert score[order[t]] == score[left].max()
        assert score[order[t]] > 0 or order[t] == min(left)
    assert pairs(transposed) == np.sum(layers[0].sum(axis=0) ** 2)


def test_modelled_misses():
    rows = np.arange(4096)
    assert misses(band(4096, 8), rows) < 10  # waits for the first column, then memory is fetched ahead
    assert misses(band(4096, 1, 1), rows[::-1]) == 2 * 4096
    weights = sdnn.random_network(4096, 1)[0].weights
    again = scipy.sparse.vstack([weights[:2], weights[:2]]).tocsr()
    assert misses(again, np.arange(4)) < 1.4 * misses(again, np.arange(2))
