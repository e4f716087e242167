"""The layer hypergraph, relabelling and balancing: each against the recount or an exhaustive search."""

import itertools

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from partition_cases import heaviest_first, patterns, random_pattern

from dasksdnn.partition.balance import capacity, move_prices, pack, rebalance
from dasksdnn.partition.hypergraph import clumps, identical, layer_hypergraph
from dasksdnn.partition.metrics import Recount
from dasksdnn.partition.relabel import input_owner, layer_volume, relabel, spread


def csr(pattern):
    return scipy.sparse.csr_array(np.asarray(pattern, np.float32))


def counted(weights, owner_in, owner, nparts):
    count = Recount(nparts)
    count.add(weights, owner_in, owner)
    return count.result().volume


@settings(deadline=None)
@given(patterns(most_layers=1), st.integers(1, 4), st.integers(0, 2**32), st.booleans())
def test_the_cut_is_the_volume(layers, nparts, seed, first):
    weights, rng = csr(layers[0]), np.random.default_rng(seed)
    owner_in = None if first else rng.integers(0, nparts, weights.shape[1])
    graph = layer_hypergraph(weights, owner_in, nparts)
    part = np.where(graph.fixed >= 0, graph.fixed, rng.integers(0, nparts, graph.fixed.size))
    rows = spread(graph.rows(part), nparts)
    inputs = input_owner(weights, rows, nparts) if first else owner_in
    assert graph.km1(part) == counted(weights, inputs, rows, nparts) == layer_volume(weights, owner_in, rows, nparts)


@settings(deadline=None)
@given(patterns(most_layers=1), st.integers(1, 4), st.floats(0.1, 2), st.booleans())
def test_hypergraph_is_well_formed(layers, nparts, fraction, first):
    weights = csr(layers[0])
    owner_in = None if first else np.arange(weights.shape[1]) % nparts
    graph = layer_hypergraph(weights, owner_in, nparts, fraction)
    nets = [graph.pins[a:b].tolist() for a, b in itertools.pairwise(graph.net_ptr)]
    assert all(len(net) >= 2 and net == sorted(set(net)) for net in nets)
    assert len(set(map(tuple, nets))) == len(nets)
    assert (graph.net_cost >= 1).all()
    assert (graph.vertex_weight >= 1).all()
    assert graph.fixed[graph.clumps :].tolist() == ([] if first else list(range(nparts)))
    free = graph.vertex_weight[: graph.clumps]
    assert free.sum() == weights.nnz
    for clump in range(graph.clumps):
        rows = np.flatnonzero(graph.clump_of_row == clump)
        assert len({tuple(layers[0][i]) for i in rows}) == 1
        assert rows.size == 1 or free[clump] <= weights.nnz / nparts * fraction
    assert ((graph.clump_of_row < 0) == ~layers[0].any(axis=1)).all()


def test_clumps_are_even():
    _, first = clumps(csr(np.ones((16, 3))), 30.0)
    clump, _ = clumps(csr(np.ones((16, 3))), 30.0)
    assert first.size == 2
    assert np.bincount(clump).tolist() == [8, 8]


def test_identical_nets_share_a_vertex_and_a_cost():
    graph = layer_hypergraph(csr([[1, 1, 0], [1, 1, 1]]), np.array([0, 0, 1]), 2)
    assert graph.net_cost.tolist() == [2, 1]
    assert graph.pins.tolist() == [0, 1, 2, 1, 3]


def test_identical_compares_entries(monkeypatch):
    # Every key collides: lists that differ must stay apart all the same.
    monkeypatch.setattr(np, "cumsum", lambda a, dtype=None: np.zeros(np.size(a), dtype or np.int64))
    assert identical(np.array([0, 2, 4, 6]), np.array([1, 2, 1, 2, 1, 3])).tolist() == [0, 0, 2]


@settings(deadline=None)
@given(patterns(most_layers=1), st.integers(1, 4), st.integers(0, 2**32))
def test_relabelling_is_the_best_of_all(layers, nparts, seed):
    weights, rng = csr(layers[0]), np.random.default_rng(seed)
    owner_in = rng.integers(0, nparts, weights.shape[1])
    owner = rng.integers(0, nparts, weights.shape[0])
    names = [np.array(names)[owner] for names in itertools.permutations(range(nparts))]
    best = min(counted(weights, owner_in, name, nparts) for name in names)
    assert counted(weights, owner_in, relabel(weights, owner_in, owner, nparts), nparts) == best


def test_first_layer_keeps_its_names():
    assert relabel(csr(np.eye(3)), None, np.array([2, 0, -1]), 3).tolist() == [2, 0, -1]


def test_inputs_go_to_the_part_that_reads_most():
    # column 0: parts 0 and 1 once each; column 1: part 1 twice; columns 2 and 3: nobody
    weights = csr([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0]])
    assert input_owner(weights, np.array([0, 1, 1]), 3).tolist() == [0, 1, 2, 0]


@given(st.lists(st.integers(-1, 3), max_size=30))
def test_spreading_fills_the_emptiest(owner):
    before = np.array(owner, np.int64)
    after = spread(before, 4)
    assert (after[before >= 0] == before[before >= 0]).all()
    counts, kept = np.bincount(after, minlength=4), np.bincount(before[before >= 0], minlength=4)
    assert all(counts[p] == kept[p] or counts[p] <= counts.min() + 1 for p in range(4))


@settings(deadline=None)
@given(patterns(most_layers=1), st.integers(1, 4), st.integers(0, 2**32), st.sampled_from([0.0, 0.03, 0.5]))
def test_rebalanced_is_balanced(layers, nparts, seed, epsilon):
    weights, rng = csr(layers[0]), np.random.default_rng(seed)
    nonzeros = np.diff(weights.indptr)
    owner_in = rng.integers(0, nparts, weights.shape[1])
    owner = rng.integers(0, max(1, nparts - 1), weights.shape[0])
    found = rebalance(weights, owner_in, owner, nparts, epsilon)
    load = np.bincount(found[nonzeros > 0], weights=nonzeros[nonzeros > 0], minlength=nparts)
    limit = max(heaviest_first(nonzeros, nparts), (1 + epsilon) * weights.nnz / nparts)
    assert load.max() <= limit + 1e-9
    assert ((found < 0) == (nonzeros == 0)).all()


def test_balanced_rows_stay():
    owner = np.array([1, 0, 1, 0])
    assert rebalance(csr(np.eye(4)), None, owner, 2, 0.0).tolist() == owner.tolist()


def test_the_cheapest_row_moves():
    # Part 0 holds rows 0 to 2, one too many; row 2 alone reads column 2, which part 1 owns.
    weights = csr([[1, 1, 0], [1, 1, 0], [0, 1, 1], [0, 1, 1]])
    found = rebalance(weights, np.array([0, 0, 1]), np.array([0, 0, 0, 1]), 2, 0.0)
    assert found.tolist() == [0, 0, 1, 1]


def test_stuck_moves_are_packed_anew():
    # Loads 11 and 7, limit 9: no single row can move, but {5, 4} and {6, 3} are there to be found.
    nonzeros = [6, 5, 4, 3]
    weights = csr([[1] * n + [0] * (6 - n) for n in nonzeros])
    found = rebalance(weights, np.zeros(6, int), np.array([0, 0, 1, 1]), 2, 0.0)
    assert np.bincount(found, weights=nonzeros).tolist() == [9, 9]


@pytest.mark.parametrize("first", [True, False])
def test_move_prices_are_exact(first):
    rng = np.random.default_rng(3)
    weights = csr(random_pattern(rng, 12, 9, 0.4))
    owner, inputs = rng.integers(0, 3, 12), None if first else rng.integers(0, 3, 9)
    rows = np.flatnonzero(owner == 1)
    before = layer_volume(weights, inputs, owner, 3)
    prices = move_prices(weights, inputs, owner, rows, 3)
    assert np.isinf(prices[:, 1]).all()
    for i, target in itertools.product(range(rows.size), (0, 2)):
        moved = owner.copy()
        moved[rows[i]] = target
        assert layer_volume(weights, inputs, moved, 3) - before == prices[i, target]


def test_packing_and_capacity():
    rows = np.array([5, 1, 4, 2])
    assert np.bincount(pack(rows, 2), weights=rows).tolist() == [6, 6]
    assert pack(rows, 2, np.array([-1, 0, 0, -1])).tolist() == [1, 0, 0, 0]
    assert capacity(rows, 2, 0.5) == 9
    assert capacity(np.array([9, 1]), 2, 0.03) == 9
