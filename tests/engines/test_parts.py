"""Inference on a Dask cluster, parts split: conformance, what crosses between workers, placement, workers that go."""

from __future__ import annotations

import os
import signal
from threading import Thread

import dask
import numpy as np
import pytest
from clusters import pids, until
from conformance import InferenceConformance
from networks import random_input, random_net, random_partition

import dasksdnn as sdnn
from dasksdnn.engines.shares import grouped
from dasksdnn.errors import InputError
from dasksdnn.sources.datasets import as_dataset


class Parts(InferenceConformance):
    """Stores of one part cannot be split: their samples are."""

    shared = True

    @pytest.fixture(autouse=True)
    def _client(self, cluster):
        self.client = cluster
        with dask.config.set({"dasksdnn.shared-memory": self.shared}):
            yield

    def run(self, store, x, memory=None):
        dataset = as_dataset(x)
        out = np.full((dataset.samples, store.widths[-1]), np.nan, store.dtype)
        strategy = "parts" if store.nparts > 1 else None
        result = sdnn.infer(store, dataset, out=out, memory=memory, client=self.client, batch=50, strategy=strategy)
        assert store.nparts == 1 or result.plan.chosen.strategy == "parts split"
        return out, result.categories


class TestShared(Parts):
    """Rows go through shared memory."""


class TestSent(Parts):
    """Rows go through the workers' comms."""

    shared = False


@pytest.fixture(scope="module")
def in_four(tmp_path_factory):
    """24 layers of 1,024 neurons in four parts, where no sample dies; it is only read."""
    net = sdnn.radixnet(neurons=1024, layers=24, weights="random", bias=0.0)
    path = tmp_path_factory.mktemp("four") / "net.zarr"
    return sdnn.save(net, path, partition=sdnn.partition(net, 4, effort="fast"))


@pytest.fixture
def stored(tmp_path):
    net = random_net(11, layers=5)
    store = sdnn.save(net, tmp_path / "net.zarr", partition=random_partition(net, 4, 3))
    return store, random_input(11, 90, net.widths[0])


def local(store, x):
    out = np.empty((x.shape[0], store.widths[-1]), store.dtype)
    return out, sdnn.infer(store, x, out=out)


@pytest.mark.parametrize("shared", [True, False])
def test_the_bits_are_those_of_the_local_engine(cluster, stored, shared):
    store, x = stored
    right, by_one = local(store, x)
    out = np.empty_like(right)
    with dask.config.set({"dasksdnn.shared-memory": shared}):
        result = sdnn.infer(store, x, out=out, client=cluster, strategy="parts", batch=32)
    np.testing.assert_array_equal(out.view(np.uint32), right.view(np.uint32))
    np.testing.assert_array_equal(result.categories, by_one.categories)
    assert 0 < result.computed_edges <= store.edges * len(x)
    assert result.peak_rss > 1 << 26


def test_a_lazy_result_is_split_when_it_is_computed(cluster, stored):
    store, x = stored
    right, _ = local(store, x)
    lazy = sdnn.infer(store, x, client=cluster, strategy="parts", batch=30)
    np.testing.assert_array_equal(cluster.compute(lazy[20:70], sync=True), right[20:70])
    with pytest.raises(InputError, match="parts cannot be split"):
        sdnn.infer(sdnn.save(store.network, store.path.parent / "one.zarr"), x, client=cluster, strategy="parts")


def traffic(client):
    """Bytes that workers have sent each other, as they count them themselves: results of tasks, and posts; and messages."""

    def counted(dask_worker):
        from dasksdnn.engines.cluster import mailbox

        return (
            dask_worker.transfer_outgoing_bytes_total + mailbox.counted["bytes"],
            dask_worker.transfer_outgoing_count_total + mailbox.counted["messages"],
        )

    return np.sum(list(client.run(counted).values()), axis=0)


def test_only_the_words_of_the_plan_cross(tmp_path, new_cluster, in_four):
    """Within 5% of volume x live samples x 4 bytes, and 4 KiB a message; all of an activation would be twice as much."""
    client, store = new_cluster(workers=2), in_four
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((2000, 1024), np.float32))
    plan = store.comm_plan().coarsen(grouped(store, 2))
    right = sdnn.infer(store, tmp_path / "x.npy", out="categories")
    before = traffic(client)
    with dask.config.set({"dasksdnn.shared-memory": False}):
        result = sdnn.infer(store, tmp_path / "x.npy", out="categories", client=client, strategy="parts", batch=1000)
    sent, messages = traffic(client) - before
    words = sum(layer.volume for layer in plan.layers[1:]) * 2000 * 4
    np.testing.assert_array_equal(result.categories, right.categories)
    assert words <= sent <= 1.05 * words + 4096 * messages, (sent, words, messages)
    whole = sum(store.widths[1:-1]) * 2000 * 4 / 2  # what one worker owns of every activation
    assert sent < 0.9 * whole


def test_dead_samples_do_not_cross(tmp_path, new_cluster):
    client = new_cluster(workers=2)
    net = sdnn.radixnet(neurons=1024, layers=24, weights="random", bias=-0.1)
    store = sdnn.save(net, tmp_path / "net.zarr", partition=sdnn.partition(net, 2, method="random"))
    x = np.random.default_rng(0).random((2000, 1024), np.float32)
    x[200:] *= 1e-3  # nine of ten die at once
    np.save(tmp_path / "x.npy", x)
    right = sdnn.infer(store, x, out="categories")
    assert right.categories.max() < 200
    before = traffic(client)
    with dask.config.set({"dasksdnn.shared-memory": False}):
        found = sdnn.infer(store, tmp_path / "x.npy", out="categories", client=client, strategy="parts", batch=1000)
    sent, messages = traffic(client) - before
    words = sum(layer.volume for layer in store.comm_plan().layers[1:]) * right.categories.size * 4
    np.testing.assert_array_equal(found.categories, right.categories)
    assert sent <= 1.05 * words + 4096 * messages, (sent, words, messages)
    assert found.computed_edges < 0.3 * store.edges * 2000


@pytest.mark.parametrize("workers", [3, 5])
def test_more_workers_than_parts_and_more_parts_than_workers(tmp_path, new_cluster, workers):
    client = new_cluster(workers=workers)
    net = random_net(7, layers=4)
    x = random_input(7, 200, net.widths[0])
    for nparts in (2, 7):
        store = sdnn.save(net, tmp_path / f"{nparts}.zarr", partition=random_partition(net, nparts, 1))
        right, _ = local(store, x)
        out = np.empty_like(right)
        sdnn.infer(store, x, out=out, client=client, strategy="parts", batch=25)
        np.testing.assert_array_equal(out, right)


def _give_up_what_is_idle():
    from dasksdnn.engines.cluster import members

    members.IDLE, before = -1.0, members.IDLE
    members._look()
    members.IDLE = before


@pytest.mark.parametrize("shared", [True, False])
def test_an_owner_that_gave_up_what_it_held_meets_the_others_anew(cluster, stored, shared, monkeypatch):
    """Each does so a while after the last batch; those that still hold theirs do not let the next batch be lost."""
    monkeypatch.setattr("dasksdnn.engines.cluster.streaming.ATTEMPTS", 1)
    store, x = stored
    right, _ = local(store, x)
    out, workers = np.empty_like(right), sorted(cluster.scheduler_info(n_workers=-1)["workers"])

    def between(_):
        cluster.run(_give_up_what_is_idle, workers=[workers.pop()] if workers else [])

    with dask.config.set({"dasksdnn.shared-memory": shared}):
        sdnn.infer(store, x, out=out, client=cluster, strategy="parts", batch=30, listener=between)
    np.testing.assert_array_equal(out, right)


@pytest.mark.parametrize("what", ["kill", "restart", "join"])
def test_workers_that_come_and_go(tmp_path, new_cluster, in_four, what):
    client, store = new_cluster(workers=2), in_four
    x = np.random.default_rng(0).random((6000, 1024), np.float32)
    np.save(tmp_path / "x.npy", x)
    right = np.empty_like(x)
    sdnn.infer(store, x, out=right)
    acts = {
        "kill": lambda: os.kill(max(pids(client).values()), signal.SIGKILL),
        "restart": lambda: client.restart(wait_for_workers=False),
        "join": lambda: client.cluster.scale(4),
    }
    seen = []

    def work():
        until(lambda: len(seen) >= 2, 60)
        acts[what]()

    thread = Thread(target=work, daemon=True)
    thread.start()
    out = np.zeros_like(right)
    result = sdnn.infer(
        store, tmp_path / "x.npy", out=out, client=client, strategy="parts", batch=250, listener=seen.append
    )
    thread.join(60)
    np.testing.assert_array_equal(out, right)
    np.testing.assert_array_equal(result.categories, np.arange(6000))
    assert [event.done for event in seen] == list(range(250, 6001, 250))


def test_workers_stay_within_what_is_projected(tmp_path, new_cluster, in_four):
    """New workers: a peak is a process's, and those of other tests have had theirs."""
    client = new_cluster(workers=2)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((2000, 1024), np.float32))
    for out in ("categories", tmp_path / "y.zarr"):
        result = sdnn.infer(in_four, tmp_path / "x.npy", out=out, client=client, strategy="parts", memory="600MiB")
        assert result.peak_rss <= result.plan.projected <= result.plan.budget == 600 << 20


def test_parts_that_send_each_other_much_go_to_one_worker(tmp_path):
    """Two pairs of parts talk within themselves alone."""
    blocks = [np.kron(np.eye(2, dtype=np.float32), np.ones((4, 4), np.float32)) for _ in range(3)]
    net = sdnn.from_arrays(blocks)
    owner = [np.array([0, 2, 0, 2, 1, 3, 1, 3])] * 4
    store = sdnn.save(net, tmp_path / "net.zarr", partition=sdnn.Partition.from_owner(net, owner, 4))
    to = grouped(store, 2)
    assert to[0] == to[2] != to[1] == to[3]
    assert sum(layer.volume for layer in store.comm_plan().coarsen(to).layers[1:]) == 0
