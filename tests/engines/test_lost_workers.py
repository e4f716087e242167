"""Workers that die, join, restart or are not there: right results, no hang, no batch lost or collected twice."""

from __future__ import annotations

import os
import signal

import dask
import numpy as np
import pytest
import zarr
from clusters import Slow, pids
from networks import random_input, random_net

import dasksdnn as sdnn
from dasksdnn.errors import ClusterError

SAMPLES, BATCH = 600, 10


@pytest.fixture
def stored(tmp_path):
    net = random_net(11, layers=3)
    return sdnn.save(net, tmp_path / "net.zarr"), random_input(11, SAMPLES, net.widths[0])


@pytest.fixture
def readers(tmp_path):
    (tmp_path / "readers").mkdir()
    return tmp_path / "readers"


def given(kind, x, folder):
    """The samples as each kind of dataset that takes another way to the workers."""
    import dask.array as da

    def slowly(block):  # in here, so that workers need not import this module
        import time

        time.sleep(0.03)
        return block

    return {
        "read": lambda: Slow(x, folder),
        "sent": lambda: x,
        "graph": lambda: da.from_array(x, chunks=(BATCH, -1)).map_blocks(slowly, dtype=x.dtype),
    }[kind]()


class Watch:
    """A listener that does something at some batch, and counts the samples of each."""

    def __init__(self, at=(), action=None):
        self.done, self.at, self.action = [], set(at), action

    def __call__(self, event):
        self.done.append(event.done)
        if len(self.done) in self.at:
            self.action()

    def check(self):
        """Every batch once."""
        assert self.done == list(range(BATCH, SAMPLES + 1, BATCH))


def check(store, x, client, out, watch, source):
    """Run, with outputs in a Zarr array whose chunks are batches, and compare with the local engine."""
    right = np.empty((SAMPLES, store.widths[-1]), np.float32)
    by_one = sdnn.infer(store, x, out=right)
    made = zarr.create_array(str(out), shape=right.shape, chunks=(BATCH, right.shape[1]), dtype="f4", fill_value=-1)
    result = sdnn.infer(store, source, out=made, client=client, batch=BATCH, listener=watch)
    watch.check()
    np.testing.assert_array_equal(made[:].view(np.uint32), right.view(np.uint32))
    np.testing.assert_array_equal(result.categories, by_one.categories)
    assert result.samples == SAMPLES


@pytest.mark.parametrize("kind", ["read", "sent", "graph"])
def test_kill_9_in_the_middle(tmp_path, stored, readers, new_cluster, kind):
    store, x = stored
    client = new_cluster(workers=2)

    def kill():
        os.kill(next(iter(pids(client).values())), signal.SIGKILL)

    check(store, x, client, tmp_path / "y.zarr", Watch([8, 25], kill), given(kind, x, readers))


@pytest.mark.parametrize("kind", ["read", "sent"])
def test_all_workers_restart(tmp_path, stored, readers, new_cluster, kind):
    store, x = stored
    client = new_cluster(workers=2)
    check(store, x, client, tmp_path / "y.zarr", Watch([8], client.restart), given(kind, x, readers))


def test_a_worker_that_joins_gets_work(tmp_path, stored, readers, new_cluster):
    store, x = stored
    client = new_cluster(workers=1)

    def grow():
        client.cluster.scale(2)
        client.wait_for_workers(2, timeout=60)

    check(store, x, client, tmp_path / "y.zarr", Watch([5], grow), Slow(x, readers))
    assert len(list(readers.iterdir())) == 2


def test_a_cluster_that_adapts(tmp_path, stored, readers, new_cluster):
    store, x = stored
    client = new_cluster(workers=0)
    client.cluster.adapt(minimum=0, maximum=2, interval="200ms")
    check(store, x, client, tmp_path / "y.zarr", Watch(), Slow(x, readers))


def test_a_batch_that_kills_its_workers(tmp_path, stored, readers, new_cluster, monkeypatch):
    store, x = stored
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        client = new_cluster(workers=2)
    monkeypatch.setattr("dasksdnn.engines.outputs.CHUNK_BYTES", 800)
    with pytest.raises(ClusterError, match=r"2 workers died, one after another, while they ran samples 300 to 309"):
        sdnn.infer(store, Slow(x, readers, deadly=303), out=tmp_path / "y.zarr", client=client, batch=BATCH)
    assert not list(tmp_path.glob("*y.zarr*"))


def test_no_worker_is_left(tmp_path, stored, readers, new_cluster, monkeypatch):
    store, x = stored
    monkeypatch.setattr("dasksdnn.engines.cluster.workers.PATIENCE", 2.0)
    client = new_cluster(workers=1)
    monkeypatch.setattr("dasksdnn.engines.outputs.CHUNK_BYTES", 800)
    watch = Watch([5], lambda: client.cluster.scale(0))
    with pytest.raises(ClusterError, match="no worker came to"):
        sdnn.infer(store, Slow(x, readers), out=tmp_path / "y.zarr", client=client, batch=BATCH, listener=watch)
    assert not list(tmp_path.glob("*y.zarr*"))


def test_the_scheduler_is_gone(tmp_path, stored, readers, new_cluster, monkeypatch):
    store, x = stored
    monkeypatch.setattr("dasksdnn.engines.outputs.CHUNK_BYTES", 800)
    client = new_cluster(workers=1)
    watch = Watch([5], client.cluster.close)
    with pytest.raises(ClusterError, match=r"scheduler.* (is gone|lost)"):
        sdnn.infer(store, Slow(x, readers), out=tmp_path / "y.zarr", client=client, batch=BATCH, listener=watch)
    assert not list(tmp_path.glob("*y.zarr*"))
