"""Training by many ranks equals training by one: parts split, samples split, both; in every way that a plan may choose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from networks import random_partition
from ranks import run_ranks
from test_trainer import RULES, Squares, dense, network, settings, trained

import dasksdnn as sdnn
from dasksdnn.engines.exchange import Grid
from dasksdnn.engines.shares import share_of, spread, whole
from dasksdnn.engines.trainer import Trainer
from dasksdnn.network import Activation, Layer, Network

ACTIVATIONS = ("relu", "tanh", "leaky_relu:0.1", "sigmoid", "relu", "identity")
WIDTHS = (11, 17, 9, 23, 14, 8, 5)


@pytest.fixture
def store(tmp_path):
    net = network(ACTIVATIONS, WIDTHS)
    return sdnn.save(net, tmp_path / "net.zarr", partition=random_partition(net, 4, 1))


def data(store, samples=61):
    rng = np.random.default_rng(4)
    return rng.standard_normal((samples, store.widths[0])), rng.standard_normal((samples, store.widths[-1]))


def by_ranks(store, owners, replicas, x, t, rule, steps, how, *, clip=None, dropout=0.0, to=None):
    """Losses (summed over replicas), the whole state, and words sent by each rank in the last step."""
    to = to or spread([1] * store.nparts, owners)

    def program(transport):
        grid = Grid(transport, owners)
        share = share_of(store, to, grid.owner) if owners > 1 else whole(store)
        mine = replace(how, held=how.held or replicas > 1)
        trainer, losses = Trainer(store, mine, rule.moments, dropout=dropout, share=share, grid=grid), []
        try:
            for step in range(1, steps + 1):
                loss, before = Squares(store, t), trainer.words
                trainer.step(x, loss, rule, step, clip=clip, key=step)
                losses.append(loss.loss)
            state = {
                (w.part, w.number): (trainer.values(w, "data"), trainer.values(w, "bias"))
                for w in store.manifest.windows
                if w.part in share.parts
            }
            return losses, state, trainer.words - before
        finally:
            trainer.close()

    found = run_ranks(owners * replicas, program)
    losses = np.sum([found[r * owners][0] for r in range(replicas)], axis=0)
    state = {}
    for _, part, _ in found:
        for key, values in part.items():
            if key in state:  # replicas hold the same bits
                for a, b in zip(state[key], values, strict=True):
                    np.testing.assert_array_equal(a, b)
            state[key] = values
    return losses, state, [words for *_, words in found]


def check(store, found, right):
    np.testing.assert_allclose(found[0], right[0], rtol=1e-10)
    for ours, theirs in zip(dense(store, found[1]), dense(store, right[1]), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


GRIDS = [(2, 1), (4, 1), (3, 1), (1, 2), (1, 3), (2, 2)]


@pytest.mark.parametrize(("owners", "replicas"), GRIDS)
@pytest.mark.parametrize("rule", list(RULES))
def test_ranks_train_to_the_same_weights(store, owners, replicas, rule):
    x, t = data(store)
    how = settings(store)
    right = trained(store, x, t, RULES[rule][0], 4, how)
    check(store, by_ranks(store, owners, replicas, x, t, RULES[rule][0], 4, how), right)


@pytest.mark.parametrize(("owners", "replicas"), GRIDS)
@pytest.mark.parametrize(
    "way",
    [
        {"tiles": 1, "held": True},
        {"cuts": (1, 3)},
        {"cuts": (1, 2, 3, 5), "resident": 1, "buffers": 2},
        {"tiles": 1, "held": True, "cuts": (2,), "resident": 0, "buffers": 1},
    ],
    ids=["rounds", "slabs", "streaming", "streaming in rounds"],
)
def test_ranks_train_in_every_way(store, owners, replicas, way):
    x, t = data(store)
    rule = RULES["adam"][0]
    right = trained(store, x, t, rule, 3, settings(store))
    check(store, by_ranks(store, owners, replicas, x, t, rule, 3, settings(store, **way)), right)


@pytest.mark.parametrize(("owners", "replicas"), GRIDS)
def test_ranks_clip_by_the_norm_of_the_whole_gradient(store, owners, replicas):
    x, t = data(store)
    rule, how = RULES["momentum"][0], settings(store, held=True)

    def clip(norm):
        return min(1.0, 0.05 / norm)

    right = trained(store, x, t, rule, 3, how, clip)
    check(store, by_ranks(store, owners, replicas, x, t, rule, 3, how, clip=clip), right)


@pytest.mark.parametrize(("owners", "replicas"), GRIDS)
def test_ranks_drop_the_same_outputs(store, owners, replicas):
    x, t = data(store)
    rule, how = RULES["sgd"][0], settings(store)
    right = by_ranks(store, 1, 1, x, t, rule, 3, how, dropout=0.4)
    check(store, by_ranks(store, owners, replicas, x, t, rule, 3, how, dropout=0.4), right)


@pytest.mark.parametrize("samples", [1, 2])
def test_a_replica_without_samples_adds_nothing(store, samples):
    x, t = data(store, samples)
    rule, how = RULES["adam"][0], settings(store)
    check(store, by_ranks(store, 1, 3, x, t, rule, 3, how), trained(store, x, t, rule, 3, how))


def test_the_same_bits_every_time(store):
    x, t = data(store)
    first, second = (by_ranks(store, 2, 2, x, t, RULES["adam"][0], 3, settings(store))[1] for _ in range(2))
    for key, values in first.items():
        for a, b in zip(values, second[key], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("to", [[0, 1, 2, 3], [0, 0, 1, 1], [1, 0, 1, 0]])
def test_words_are_those_of_the_coarsened_plan(store, to):
    """Forward layers 2 to L, and the same words back; the input comes from the dataset."""
    x, t = data(store)
    owners, plan = max(to) + 1, store.comm_plan().coarsen(to)
    _, _, words = by_ranks(store, owners, 1, x, t, RULES["sgd"][0], 2, settings(store), to=to)
    expand = np.sum([layer.sent() for layer in plan.layers[1:]], axis=0)
    np.testing.assert_array_equal(words, (expand.sum(axis=1) + expand.sum(axis=0)) * len(x))


def test_an_owner_may_own_nothing_of_a_layer(tmp_path):
    """All neurons of the second layer are one part's; another's rows need them."""
    net = network(("relu", "relu", "identity"), (6, 8, 7, 4))
    owner = [np.arange(6) % 2, np.zeros(8, int), np.arange(7) % 2, np.ones(4, int)]
    store = sdnn.save(net, tmp_path / "net.zarr", partition=sdnn.Partition.from_owner(net, owner, 2))
    x, t = data(store, 20)
    how = settings(store)
    check(
        store,
        by_ranks(store, 2, 1, x, t, RULES["adam"][0], 3, how),
        trained(store, x, t, RULES["adam"][0], 3, how),
    )


def test_stages_are_cut_only_where_someone_exchanges(tmp_path):
    eye = Layer(sdnn.from_arrays([np.eye(8, dtype=np.float32)])[0].weights, np.zeros(8, np.float32), Activation("relu"))
    mixed = Layer(
        sdnn.from_arrays([np.roll(np.eye(8, dtype=np.float32), 1, axis=0)])[0].weights,
        np.zeros(8, np.float32),
        Activation("relu"),
    )
    net = Network.from_layers([eye, eye, mixed, eye, eye])
    part = sdnn.Partition.from_owner(net, [np.arange(8) // 4] * 6, 2)
    store = sdnn.save(net, tmp_path / "net.zarr", partition=part)
    share = share_of(store, [0, 1], 0)
    assert share.meets == (2,)
    assert share.stages(0, 5) == [(0, 2), (2, 5)]
    assert share.stages(3, 5) == [(3, 5)]
    assert share.widths == (8, 4, 5, 4, 4, 4)


def test_parts_are_spread_evenly():
    assert sorted(spread([5, 1, 1, 1, 1, 1], 2)) == [0, 1, 1, 1, 1, 1]
    assert sorted(set(spread([0, 0, 0], 3))) == [0, 1, 2]
