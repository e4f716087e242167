"""Refinement: counts kept step by step against counts made anew, exact steps against exhaustive search, and promises."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from partition_cases import network, patterns, random_pattern

import dasksdnn as sdnn
from dasksdnn.errors import InputError
from dasksdnn.partition import refine as module
from dasksdnn.partition.anneal import anneal
from dasksdnn.partition.metrics import recount
from dasksdnn.partition.partition import partition
from dasksdnn.partition.refine import EFFORTS, Effort, Goal, find_effort, refine, windows
from dasksdnn.partition.relabel import input_owner
from dasksdnn.partition.state import Layers


def random_owner(rng, net, nparts):
    return [rng.integers(0, nparts, width) for width in net.widths[1:]]


def counted(net, rows, nparts):
    """Words of each layer, by the recount that shares no code with refinement."""
    owner = [input_owner(net[0].weights, rows[0], nparts), *rows]
    return recount(net, owner, nparts).volume_per_layer.tolist()


def state(net, rows, nparts, first=0, last=None, fraction=1, epsilon=0.5, cost=1):
    last = len(net) if last is None else last
    behind = last < len(net)
    weights = [net[k].weights for k in range(first, last + behind)]
    owner = [rows[first - 1] if first else None, *rows[first : last + behind]]
    costs = [cost] * len(weights)
    return Layers(weights, owner, nparts, epsilon, costs, range(last - first), behind, fraction)


def small(seed=0, layers=4, width=40, density=0.1):
    rng = np.random.default_rng(seed)
    return network([random_pattern(rng, width, width, density) for _ in range(layers)])


@settings(deadline=None)
@given(layers=patterns(), nparts=st.integers(2, 5), seed=st.integers(0, 99), fraction=st.sampled_from([1, 0.25]))
def test_the_state_counts_as_the_recount_does(layers, nparts, seed, fraction):
    net = network(layers)
    rows = random_owner(np.random.default_rng(seed), net, nparts)
    words = counted(net, rows, nparts)
    assert state(net, rows, nparts, fraction=fraction).sent() == words
    for first, last in itertools.combinations(range(len(net) + 1), 2):
        held = state(net, rows, nparts, first, last, fraction, cost=2)
        assert held.sent() == [2 * w for w in words[first : last + 1]]
        for layer, owner in zip(held.layers, rows[first:last], strict=True):
            np.testing.assert_array_equal(layer.rows, owner)


def run_some(held, message, temperature, strictness, steps=200):
    """Steps on every layer in turn; the traffic kept meanwhile."""
    count = len(held.layers)
    none = (np.zeros((0, 0), np.int64), np.zeros(0))
    traffic = [none if message is None else held.traffic(k, message) for k in range(count + 1)]
    taken = 0
    for k in [*range(0, count, 2), *range(1, count, 2)]:
        layer, moving = held.layers[k], (*traffic[k], *traffic[k + 1])
        arguments = (layer.part, layer.weight, layer.load, layer.cap, layer.nets.reads, layer.owns, moving)
        taken += anneal(*arguments, float(message or 0), temperature, strictness, steps, layer.random)
    return taken, traffic


@settings(deadline=None, max_examples=40)
@given(
    layers=patterns(),
    nparts=st.integers(2, 4),
    seed=st.integers(0, 99),
    message=st.sampled_from([None, 0.0, 5.0]),
    strictness=st.sampled_from([0.0, 1.0]),
)
def test_counts_kept_are_counts_made_anew(layers, nparts, seed, message, strictness):
    net = network(layers)
    rows = random_owner(np.random.default_rng(seed), net, nparts)
    for first, last in {(0, len(net)), (0, 1), (len(net) - 1, len(net))}:
        held = state(net, rows, nparts, first, last)
        caps = [max(layer.cap, int(layer.load.max())) for layer in held.layers]
        _, traffic = run_some(held, message, 3.0, strictness)
        now = list(rows)
        now[first:last] = [layer.rows for layer in held.layers]
        anew = state(net, now, nparts, first, last)
        assert held.sent() == anew.sent() == counted(net, now, nparts)[first : last + 1]
        for k, (layer, cap) in enumerate(zip(held.layers, caps, strict=True)):
            np.testing.assert_array_equal(layer.load, np.bincount(layer.part, layer.weight, nparts))
            assert strictness or layer.load.max() <= cap
            if message is not None:
                send, load = held.traffic(k, message)
                np.testing.assert_array_equal(traffic[k][0], send)
                np.testing.assert_allclose(traffic[k][1], load)


def test_steps_are_taken():
    net = small()
    held = state(net, random_owner(np.random.default_rng(0), net, 3), 3)
    taken, _ = run_some(held, None, 5.0, 0.0)
    assert taken > 20


@pytest.mark.parametrize("message", [None, 3.0])
def test_cold_steps_only_save(message):
    net = small(1)
    held = state(net, random_owner(np.random.default_rng(1), net, 3), 3)

    def energy():
        if message is None:
            return sum(held.sent())
        loads = [held.traffic(k, message)[1] for k in range(len(held.layers))]
        return sum(0.5 * (load.sum() + 3 * load.max()) for load in loads)

    before = energy()
    for _ in range(5):
        run_some(held, message, 0.0, 0.0)
        assert energy() <= before
        before = energy()


def test_restore_goes_back():
    net = small(2)
    held = state(net, random_owner(np.random.default_rng(2), net, 3), 3, 0, 3)
    saved, sent = held.save(), held.sent()
    run_some(held, None, 9.0, 0.0)
    assert held.sent() != sent
    held.restore(saved)
    assert held.sent() == sent
    for layer in held.layers:
        np.testing.assert_array_equal(layer.load, np.bincount(layer.part, layer.weight, 3))


@settings(deadline=None, max_examples=40)
@given(layers=patterns(), seed=st.integers(0, 99))
def test_renaming_is_the_best_of_all(layers, seed):
    nparts, net = 3, network(layers)
    rows = random_owner(np.random.default_rng(seed), net, nparts)
    for first, last in itertools.combinations(range(len(net) + 1), 2):
        held = state(net, rows, nparts)
        before = sum(held.sent())
        saved = held.rename(first, last)
        assert sum(held.sent()) == before - saved
        best = before
        for name in itertools.permutations(range(nparts)):
            tried = [np.array(name)[r] if first <= k < last else r for k, r in enumerate(rows)]
            best = min(best, sum(counted(net, tried, nparts)))
        assert before - saved == best


@settings(deadline=None, max_examples=30)
@given(layers=patterns(widest=8), seed=st.integers(0, 99), choices=st.integers(1, 3))
def test_recombining_is_the_best_of_all(layers, seed, choices):
    nparts, net, rng = 2, network(layers), np.random.default_rng(seed)
    start = random_owner(rng, net, nparts)
    held = state(net, start, nparts, fraction=0)  # each row by itself
    found = [[rng.integers(0, nparts, layer.weight.size) for layer in held.layers] for _ in range(choices)]
    held.restore(held.recombine(found))
    best = None
    names = list(itertools.permutations(range(nparts)))
    for chosen in itertools.product(range(choices), repeat=len(net)):
        for renamed in itertools.product(names, repeat=len(net) - 1):
            held_parts = [found[c][k] for k, c in enumerate(chosen)]
            parts = [held_parts[0], *(np.array(n)[p] for n, p in zip(renamed, held_parts[1:], strict=True))]
            rows = [p[layer.vertex_of_row] for p, layer in zip(parts, held.layers, strict=True)]
            words = sum(counted(net, rows, nparts))
            best = words if best is None else min(best, words)
    assert sum(held.sent()) == best


def test_recombining_counts_what_is_behind():
    """Of two results that are alike but for what the next layer reads, the one that suits it is chosen."""
    patterns = [np.eye(4), np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])]
    net = network(patterns)
    held = state(net, [np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])], 2, 0, 1, fraction=0)
    good, bad = [np.array([0, 0, 1, 1])], [np.array([0, 1, 0, 1])]
    for found in ([good, bad], [bad, good]):
        held.restore(held.recombine(found))
        assert held.sent() == [0, 0]


def refined(net, rows, nparts, goal, threads, effort=EFFORTS["fast"]):
    with ThreadPoolExecutor(threads) as pool:
        return refine([state(net, rows, nparts)], effort, goal, pool, lambda share: None)


@pytest.mark.parametrize("goal", [Goal(), Goal(message=4.0)])
def test_threads_do_not_matter(goal):
    net = small(4, layers=5)
    rows = random_owner(np.random.default_rng(4), net, 4)
    one, three = (refined(net, rows, 4, goal, threads) for threads in (1, 3))
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a, b)


def test_little_effort_is_still_never_worse():
    net = small(5)
    start = partition(net, 3, effort="none")
    for effort in (Effort(1, 1, 10**9), Effort(3, 50, 300), Effort(2, 400, 10**9)):
        rows = refined(net, [o.astype(np.int64) for o in start.owner[1:]], 3, Goal(), 2, effort)
        assert sum(counted(net, rows, 3)) <= start.volume


def test_more_effort_saves_more():
    net = sdnn.community(128, 4)
    none, fast = (partition(net, 8, effort=effort) for effort in ("none", "fast"))
    assert fast.volume < 0.98 * none.volume
    assert fast.imbalance <= max(1.03, none.imbalance)
    assert (none.effort, fast.effort, fast.objective, fast.repeatable) == ("none", "fast", "volume", True)


def test_windows_cut_layers_within_a_bound():
    edges, inputs = [100, 100, 900, 100, 100, 100, 100], [40] * 7
    assert windows(edges, inputs, 3) == [(0, 7)]
    assert windows(edges, inputs, 3, 1) == [(k, k + 1) for k in range(7)]
    layer = 100 * module.EDGE_BYTES + 40 * 3 * module.COUNT_BYTES
    # With the layer behind each: the large one is a window of its own, behind one of its own.
    assert windows(edges, inputs, 3, 3 * layer) == [(0, 1), (1, 2), (2, 3), (3, 5), (5, 7)]


def test_windows_are_refined_one_after_the_other(monkeypatch):
    monkeypatch.setitem(EFFORTS, "fast", Effort(2, 100, 20_000_000))
    net = sdnn.community(128, 6)
    whole, none = (partition(net, 4, effort=effort) for effort in ("fast", "none"))
    monkeypatch.setattr(module, "windows", lambda edges, inputs, nparts: [(0, 2), (2, 3), (3, 6)])
    cut = partition(net, 4, effort="fast")
    assert cut.volume < none.volume
    assert cut.imbalance <= 1.03
    assert any((a != b).any() for a, b in zip(cut.owner, whole.owner, strict=True))


def test_a_time_limit_stops_and_is_marked():
    found = partition(sdnn.community(256, 4), 8, effort="best", time_limit=1.0)
    assert not found.repeatable
    assert "not repeatable" in repr(found)
    assert found.seconds < 30
    assert found.imbalance <= 1.03


def exchanges(net, made, message):
    """What `objective="time"` makes least, from who sends what to whom, layer by layer; the first is not exchanged."""
    total = 0.0
    for k in range(1, len(net)):
        send = np.zeros((made.nparts, made.nparts), np.int64)
        weights, sender, receiver = net[k].weights.tocoo(), made.owner[k], made.owner[k + 1]
        pairs = np.unique(np.stack([weights.coords[1], receiver[weights.coords[0]]]), axis=1)
        np.add.at(send, (sender[pairs[0]], pairs[1]), 1)
        np.fill_diagonal(send, 0)
        load = send.sum(axis=1) + message * np.count_nonzero(send, axis=1)
        total += 0.5 * (load.sum() + made.nparts * load.max())
    return total


def test_time_weighs_messages_and_the_busiest_part():
    net = sdnn.community(128, 3, communities=8)
    words, time = (partition(net, 4, effort="fast", objective=o, batch=64) for o in ("volume", "time"))
    assert time.objective == "time"
    message = 1.5e-6 * 12.5e9 / (4 * 64)
    assert exchanges(net, time, message) < exchanges(net, words, message)


def test_time_is_never_worse_than_at_the_start():
    for seed in range(2):
        net = sdnn.community(96, 3, seed=seed)
        how = {"objective": "time", "latency": 1e-4, "batch": 1}
        # "default" starts where "none" ends.
        none, default = (partition(net, 5, effort=effort, **how) for effort in ("none", "default"))
        message = 1e-4 * 12.5e9 / 4
        assert exchanges(net, default, message) <= exchanges(net, none, message)


@pytest.mark.parametrize("training", [False, True])
def test_training_counts_words_twice_but_in_the_first_layer(training, monkeypatch):
    seen = []

    def watched(variants, *more):
        seen.append(variants[0].sent())
        return refine(variants, *more)

    monkeypatch.setattr(module, "refine", watched)
    net = sdnn.community(128, 3)
    start = partition(net, 4, effort="none")
    monkeypatch.setattr(module, "EFFORTS", {**EFFORTS, "default": Effort(1, 1, 1)})
    partition(net, 4, training=training)
    first, *others = start.metrics.volume_per_layer.tolist()
    assert seen == [[first, *(words * (1 + training) for words in others)]]


def test_levels_have_names():
    assert find_effort("fast") is EFFORTS["fast"]
    with pytest.raises(InputError, match="unknown effort 'x': use one of none, fast, default, best"):
        find_effort("x")
