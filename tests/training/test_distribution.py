"""Training on Dask clusters: as on one machine, whatever becomes of the workers."""

from __future__ import annotations

import os
import signal
import time
from threading import Thread

import numpy as np
import pytest
from clusters import pids, until
from networks import random_partition

import dasksdnn as sdnn
from dasksdnn.engines.cluster import mailbox
from dasksdnn.errors import ClusterError, InputError, TrainingError
from dasksdnn.store.checkpoints import generations
from dasksdnn.training import distribution

OPTIONS = {"epochs": 3, "batch_size": 64, "lr": 0.01, "seed": 5}


@pytest.fixture(scope="module")
def net():
    return sdnn.random_sparse([12, 40, 40, 24, 5], [0.4, 0.3, 0.3, 1.0], seed=3, dtype="float64")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((430, 12))
    return x, (x @ rng.standard_normal((12, 5))).argmax(axis=1)


def weights(path):
    return [layer.weights.toarray() for layer in sdnn.open_store(path).network]


def check(path, history, right_path, right):
    for a, b in zip(history.epochs, right.epochs, strict=True):
        assert (a.epoch, a.steps, a.samples) == (b.epoch, b.steps, b.samples)
        assert a.loss == pytest.approx(b.loss, rel=1e-9)
    for a, b in zip(weights(path), weights(right_path), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
    assert sdnn.verify(path) == []


@pytest.mark.parametrize("strategy", ["samples", "parts"])
@pytest.mark.parametrize(
    "options", [{}, {"optimizer": "momentum", "clip_norm": 1.0, "dropout": 0.2}], ids=["adam", "clip"]
)
def test_a_cluster_trains_as_one_machine_does(tmp_path, cluster, net, data, strategy, options):
    x, y = data
    for name in ("one", "many"):
        sdnn.save(net, tmp_path / f"{name}.zarr", partition=random_partition(net, 5))
    right = sdnn.train(tmp_path / "one.zarr", x, y, validation=(x[:50], y[:50]), **OPTIONS, **options)
    seen = []
    found = sdnn.train(
        tmp_path / "many.zarr", x, y, validation=(x[:50], y[:50]), client=cluster, strategy=strategy,
        listener=seen.append, **OPTIONS, **options,
    )  # fmt: skip
    check(tmp_path / "many.zarr", found, tmp_path / "one.zarr", right)
    assert f"{strategy} split over 2 ranks" in found.plan["strategy"]
    assert (seen[-1].task, seen[-1].done, seen[-1].total) == ("train", 3 * 430, 3 * 430)
    assert (found.epochs[0].volume > 0) == (strategy == "parts")


def test_samples_may_be_a_file_or_a_lazy_array(tmp_path, cluster, net, data):
    import dask.array as da

    x, y = data
    np.save(tmp_path / "x.npy", x)
    losses = []
    for i, given in enumerate([x, tmp_path / "x.npy", da.from_array(x, chunks=(100, -1)) * 1.0]):
        sdnn.save(net, tmp_path / f"{i}.zarr")
        losses.append(sdnn.train(tmp_path / f"{i}.zarr", given, y, client=cluster, **OPTIONS).epochs[-1].loss)
    assert losses[0] == losses[1] == losses[2]


def test_a_cluster_goes_on_from_what_one_machine_did(tmp_path, cluster, net, data):
    x, y = data
    for name in ("one", "many"):
        sdnn.save(net, tmp_path / f"{name}.zarr", partition=random_partition(net, 5))
    right = sdnn.train(tmp_path / "one.zarr", x, y, **OPTIONS)
    sdnn.train(tmp_path / "many.zarr", x, y, **{**OPTIONS, "epochs": 1})
    found = sdnn.train(tmp_path / "many.zarr", x, y, client=cluster, resume=True, **OPTIONS)
    check(tmp_path / "many.zarr", found, tmp_path / "one.zarr", right)


def in_the_middle(path, act, after=2):
    """Act once some checkpoints are there."""

    def work():
        until(lambda: len(generations(path)) > 1 and generations(path)[-1] >= after, 60)
        act()

    thread = Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("strategy", ["samples", "parts"])
@pytest.mark.parametrize("what", ["kill", "restart", "join"])
def test_workers_that_come_and_go(tmp_path, new_cluster, net, data, strategy, what):
    """kill -9 of a worker, a restart of all, one more: the run goes on by itself and ends as if nothing had been."""
    x, y = data
    client = new_cluster(workers=2)
    for name in ("one", "many"):
        sdnn.save(net, tmp_path / f"{name}.zarr", partition=random_partition(net, 4))
    options = {**OPTIONS, "epochs": 6}
    right = sdnn.train(tmp_path / "one.zarr", x, y, **options)
    acts = {
        "kill": lambda: os.kill(max(pids(client).values()), signal.SIGKILL),
        "restart": lambda: client.restart(wait_for_workers=False),
        "join": lambda: client.cluster.scale(3),
    }
    thread = in_the_middle(tmp_path / "many.zarr", acts[what])
    found = sdnn.train(
        tmp_path / "many.zarr", x, y, client=client, strategy=strategy, checkpoint_every="5 steps", **options
    )
    thread.join(60)
    check(tmp_path / "many.zarr", found, tmp_path / "one.zarr", right)


@pytest.mark.slow
def test_it_ends_where_workers_keep_dying(tmp_path, new_cluster, net, data, monkeypatch):
    x, y = data
    monkeypatch.setattr(distribution, "ATTEMPTS", 2)
    client = new_cluster(workers=2)
    store = sdnn.save(net, tmp_path / "net.zarr")
    ended = []

    def kill():
        while not ended:
            for pid in pids(client).values():
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)

    thread = Thread(target=kill, daemon=True)
    thread.start()
    try:
        with pytest.raises(ClusterError, match="without coming further"):
            sdnn.train(store, x, y, client=client, checkpoint_every=1000, **{**OPTIONS, "epochs": 100_000})
    finally:
        ended.append(True)
        thread.join(30)
    assert sdnn.verify(store.path) == []


def test_nothing_of_a_run_stays_on_the_workers(tmp_path, cluster, net, data):
    x, y = data
    store = sdnn.save(net, tmp_path / "net.zarr", partition=random_partition(net, 4))

    def held():
        return len(os.listdir("/proc/self/fd")), len(mailbox.boxes)

    sdnn.train(store, x, y, client=cluster, strategy="parts", **OPTIONS)
    before = cluster.run(held)
    for strategy in ("parts", "samples", "parts"):
        sdnn.train(store, x, y, client=cluster, strategy=strategy, **OPTIONS)
    assert cluster.run(held) == before
    assert not any(
        "sdnn-train" in str(key) for key in cluster.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))
    )


def test_what_is_wrong_is_said_as_on_one_machine(tmp_path, cluster, net, data, capfd):
    x, y = data
    store = sdnn.save(net, tmp_path / "net.zarr")
    with pytest.raises(TrainingError, match="the loss is NaN or infinite"):
        sdnn.train(store, x, y, client=cluster, **{**OPTIONS, "lr": 1e80, "optimizer": "sgd"})
    with pytest.raises(InputError, match="parts cannot be split"):
        sdnn.train(store, x, y, client=cluster, strategy="parts", **OPTIONS)
    with pytest.raises(InputError, match="strategy is 'rows'"):
        sdnn.train(store, x, y, client=cluster, strategy="rows", **OPTIONS)
    with pytest.raises(InputError, match="leave it out"):
        sdnn.train(store, x, y, engine="local", client=cluster, **OPTIONS)
    with pytest.raises(InputError, match="label of sample 0"):
        sdnn.train(store, x, y + 7, client=cluster, **OPTIONS)
    assert "Traceback" not in capfd.readouterr().err
    assert sdnn.verify(store.path) == []
