"""The communication plan, executed with plain NumPy, against dense matrices; and plans between owners of several parts."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import random_net, random_partition

import dasksdnn as sdnn
from dasksdnn.errors import InputError
from dasksdnn.plan.comm import exchange

relaxed = settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def cases(draw):
    seed = draw(st.integers(0, 2**32))
    net = random_net(seed, layers=draw(st.integers(1, 4)), widest=draw(st.sampled_from([3, 12, 40])), dtype="float64")
    nparts = draw(st.integers(1, min(7, max(net.widths))))
    return net, random_partition(net, nparts, seed % 997)


class Saved:
    """A store for the time of a `with`, its plan, and per-part vectors of a layer's inputs or outputs."""

    def __init__(self, net, partition):
        self.net, self.partition = net, partition

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.store = sdnn.save(self.net, Path(self.folder.name) / "net.zarr", partition=self.partition, window=2000)
        self.plan = self.store.comm_plan()
        return self

    def __exit__(self, *_):
        self.folder.cleanup()

    def members(self, k):
        return self.store.order(k).members


def expand(layer, own):
    """Every part's input panel, from the values that the parts own."""
    panels = [np.full((layer.panel_size(p), own[p].shape[1]), np.nan) for p in range(layer.nparts)]
    for p, values in enumerate(own):
        panels[p][: len(values)] = values
    return deliver(layer, panels, add=False)


def deliver(layer, panels, add):
    """Carry out an exchange; every message must be received as it was sent."""
    mail = {(p, q): panels[p][where].copy() for p in range(layer.nparts) for q, where in layer.sends(p)}
    assert len(mail) == layer.messages
    assert sum(len(values) for values in mail.values()) == layer.volume
    for p in range(layer.nparts):
        senders = [q for q, _ in layer.receives(p)]
        assert senders == sorted(set(senders) - {p})
        for q, where in layer.receives(p):
            values = mail.pop((q, p))
            panels[p][where] = panels[p][where] + values if add else values
    assert not mail
    return panels


@relaxed
@given(case=cases())
def test_the_plan_counts_as_the_partition_does(case):
    net, partition = case
    with Saved(net, partition) as saved:
        plan, metrics = saved.plan, partition.metrics
        assert (plan.nparts, len(plan.layers)) == (partition.nparts, len(net))
        assert (plan.volume, plan.messages) == (partition.volume, partition.messages)
        assert [layer.volume for layer in plan.layers] == metrics.volume_per_layer.tolist()
        assert [layer.messages for layer in plan.layers] == metrics.messages_per_layer.tolist()
        sent = sum(layer.sent() for layer in plan.layers)
        np.testing.assert_array_equal(sent, metrics.send)
        np.testing.assert_array_equal(sum(layer.sent() for layer in plan.reverse().layers), metrics.send.T)
        assert plan.reverse().volume == plan.volume
        for k, layer in enumerate(plan.layers):
            for part in range(plan.nparts):
                assert layer.panel_size(part) == saved.store.columns(part, k).size
            assert not any(a.flags.writeable for a in (layer.own, layer.owners, layer.ptr, layer.idx, layer.start))


@relaxed
@given(case=cases())
def test_expand_and_fold_are_the_dense_products(case):
    net, partition = case
    rng = np.random.default_rng(0)
    with Saved(net, partition) as saved:
        for k, (layer, fold) in enumerate(zip(saved.plan.layers, saved.plan.reverse().layers[::-1], strict=True)):
            dense = net[k].weights.toarray()
            blocks = [saved.store.row_block(p, k) for p in range(partition.nparts)]
            inputs, outputs = saved.members(k), saved.members(k + 1)

            x = rng.normal(size=(net.widths[k], 2))
            panels = expand(layer, [x[ids] for ids in inputs])
            for p, panel in enumerate(panels):
                np.testing.assert_array_equal(panel, x[saved.store.columns(p, k)])
                np.testing.assert_allclose(blocks[p] @ panel, (dense @ x)[outputs[p]], atol=1e-12)

            delta = rng.normal(size=(net.widths[k + 1], 2))
            partial = [blocks[p].T @ delta[outputs[p]] for p in range(partition.nparts)]
            summed = deliver(fold, partial, add=True)
            for p, ids in enumerate(inputs):
                np.testing.assert_allclose(summed[p][: ids.size], (dense.T @ delta)[ids], atol=1e-12)


@relaxed
@given(case=cases(), data=st.data())
def test_owners_of_several_parts(case, data):
    net, partition = case
    owners = data.draw(st.lists(st.integers(0, 3), min_size=partition.nparts, max_size=partition.nparts))
    with Saved(net, partition) as saved:
        coarse = saved.plan.coarsen(owners)
        assert coarse.volume <= saved.plan.volume
        assert coarse.messages <= saved.plan.messages
        for k, (fine, layer) in enumerate(zip(saved.plan.layers, coarse.layers, strict=True)):
            check_coarse(saved, k, fine, layer, owners)
            back = layer.reverse()
            np.testing.assert_array_equal(fine.reverse().coarsen(owners).sent(), back.sent())


def check_coarse(saved, k, fine, layer, owners):
    """Each owner gets every value that its parts need, each once, and nothing that it has."""
    members = saved.members(k)
    held = [
        np.concatenate([np.zeros(0, int), *(members[p] for p in range(fine.nparts) if owners[p] == owner)])
        for owner in range(layer.nparts)
    ]
    order = np.concatenate(held)
    np.testing.assert_array_equal(order[fine.coarse_positions(owners)], np.concatenate(members))
    panels = expand(layer, [ids[:, None].astype(float) for ids in held])
    for owner, panel in enumerate(panels):
        needed = {int(j) for p in range(fine.nparts) if owners[p] == owner for j in saved.store.columns(p, k)}
        found = panel[:, 0].astype(int).tolist()
        assert len(found) == len(set(found))
        assert set(found) == needed


@relaxed
@given(case=cases())
def test_the_two_extremes(case):
    net, partition = case
    with Saved(net, partition) as saved:
        alone = saved.plan.coarsen(np.zeros(partition.nparts, int))
        assert (alone.nparts, alone.volume, alone.messages) == (1, 0, 0)
        same = saved.plan.coarsen(range(partition.nparts))
        for a, b in zip(saved.plan.layers, same.layers, strict=True):
            for name in ("own", "owners", "users", "ptr", "idx", "start"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_small_one():
    """Part 0 owns positions 0, 1; part 1 owns none; part 2 owns 2, 3, 4."""
    layer = exchange(np.array([2, 0, 3]), [np.array([3, 4]), np.array([0, 2]), np.array([], int)])
    assert layer.owners.tolist() == [0, 2, 2]
    assert layer.users.tolist() == [1, 0, 1]
    assert layer.ptr.tolist() == [0, 1, 3, 4]
    assert layer.idx.tolist() == [0, 1, 2, 0]
    assert layer.start.tolist() == [0, 2, 1]
    assert [layer.panel_size(p) for p in range(3)] == [4, 2, 3]
    assert layer.receives(1) == [(0, slice(0, 1)), (2, slice(1, 2))]
    assert layer.received(1).tolist() == [0, 2]
    assert layer.sent().tolist() == [[0, 1, 0], [0, 0, 0], [2, 1, 0]]


@pytest.mark.parametrize("owners", [[0], [0, -1, 0], [0.5, 1, 2], [[0, 1, 2]]])
def test_a_map_that_cannot_be(owners):
    layer = exchange(np.array([1, 1, 1]), [np.zeros(0, int)] * 3)
    with pytest.raises(InputError, match="each of 3 parts"):
        layer.coarsen(owners)
