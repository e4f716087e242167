"""Partitions from files and from the cache, and repartitioning that goes on where it was stopped."""

from __future__ import annotations

import signal
import time

import dask.config
import numpy as np
import pytest
from watching import told

import dasksdnn as sdnn
from dasksdnn.partition import caching
from dasksdnn.partition.caching import cached  # what it is before the tests put something else in its place


@pytest.fixture
def owner(net, tmp_path):
    """Two parts, from a tool of one's own."""
    np.save(tmp_path / "owner.npy", np.arange(sum(net.widths)) % 2)
    return tmp_path / "owner.npy"


def test_given_owner(store, owner, report, tmp_path):
    found = report("partition", store, "--owner", owner, "--out", tmp_path / "out.zarr")
    assert (found["nparts"], found["partition"]["method"], found["reused"]) == (2, "given", False)
    flat = np.concatenate(sdnn.open_store(tmp_path / "out.zarr").owner)
    np.testing.assert_array_equal(flat, np.load(owner))


def test_saved_and_used(store, run, report, tmp_path):
    saved = tmp_path / "p.npz"
    first = report(
        "partition", store, "--nparts", 3, "--method", "metis", "--save-owner", saved, "--out", tmp_path / "a.zarr"
    )
    again = report("partition", store, "--owner", saved, "--out", tmp_path / "b.zarr")
    assert (first["digest"], first["reused"]) == (again["digest"], False)
    assert again["reused"]
    printed = run("partition", store, "--owner", saved, "--out", tmp_path / "b.zarr", "--overwrite").out
    assert "partitioning, reused)" in printed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--nparts", 2], "leave out --nparts"),
        (["--method", "metis", "--seed", 0], "leave out --method, --seed"),
        (["--epsilon", 0.03, "--no-cache"], "leave out --epsilon, --no-cache"),
    ],
)
def test_given_and_made(store, owner, refused, tmp_path, options, says):
    refused("partition", store, "--owner", owner, *options, "--out", tmp_path / "out.zarr", says=[says, "--help"])


def test_owners_that_cannot_be_used(store, owner, refused, tmp_path):
    out = ["--out", tmp_path / "out.zarr"]
    refused("partition", store, *out, says=["--nparts", "--owner"])
    refused("partition", store, "--owner", tmp_path / "none", *out, says=[tmp_path / "none", "check the path"])
    refused("partition", store, "--owner", owner, "--save-owner", owner, "--overwrite", *out, says=["overwritten"])
    refused("partition", store, "--nparts", 2, "--save-owner", owner, *out, says=["is kept"])
    np.save(owner, np.zeros(5, int))
    refused("partition", store, "--owner", owner, *out, says=[owner, "inputs included"])
    owner.write_text("0\n1\n")
    refused("partition", store, "--owner", owner, *out, says=[owner, "damaged"])


def test_cache(store, report, run, tmp_path, monkeypatch):
    monkeypatch.setattr(caching, "cached", cached)
    monkeypatch.setattr(caching, "LEAST_SECONDS", 0)
    command = ["partition", store, "--nparts", 3, "--method", "metis", "--out", tmp_path / "out.zarr", "--overwrite"]
    with dask.config.set({"dasksdnn.cache": str(tmp_path / "cache")}):
        assert not report(*command, "--no-cache")["reused"]
        assert not list(tmp_path.glob("cache/*/partition-*"))
        assert [report(*command)["reused"] for _ in range(2)] == [False, True]
        assert "reused" in run(*command).out
        assert not report(*command, "--no-cache")["reused"]


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A store that takes a second or more to write anew, in two windows, and what it gives that was not stopped."""
    folder = tmp_path_factory.mktemp("long")
    store = sdnn.save(sdnn.random_sparse([1024] * 25, 0.6), folder / "long.zarr")
    once = sdnn.save(store.network, folder / "once.zarr", partition=sdnn.partition(store.network, 1, method="block"))
    return store.path, once.digest


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_stopped_and_gone_on_with(long, spawn, report, tmp_path, number):
    out, journal = tmp_path / "out.zarr", tmp_path / ".out.zarr.resumable" / "journal"
    path, once = long
    command = ["partition", path, "--nparts", 1, "--method", "block", "--resume", "--out"]
    started = spawn(*command, out)
    while not (journal.exists() and b'"part"' in journal.read_bytes()):
        assert started.poll() is None, started.communicate()
        time.sleep(0.01)
    started.send_signal(number)
    _, said = started.communicate(timeout=60)
    assert [p.name for p in tmp_path.iterdir()] == [".out.zarr.resumable"]
    if number == signal.SIGINT:
        assert started.returncode == 130
        (line,) = told(said)
        assert line.startswith(f"dasksdnn: stopped; {journal.parent} keeps what is written: go on with --resume")
    found = report(*command, out)
    assert found["digest"] == once
    assert found["windows"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.zarr"]


def test_another_command_is_refused(store, run, refused, tmp_path, monkeypatch):
    def stop(self, owner, partition):
        raise KeyboardInterrupt

    command = ["partition", store, "--out", tmp_path / "out.zarr", "--method", "block", "--nparts"]
    with monkeypatch.context() as patch:
        patch.setattr("dasksdnn.store.writer._Writer.seal", stop)
        assert "go on with --resume" in run(*command, 3, "--resume", status=130).err
    refused(*command, 2, "--resume", says=[".out.zarr.resumable was begun with another partition", "remove the folder"])
    run(*command, 3, "--resume")
    assert not (tmp_path / ".out.zarr.resumable").exists()


def test_effort_and_objective(store, run, report, tmp_path):
    out = tmp_path / "out.zarr"
    how = ("--effort", "fast", "--objective", "time", "--latency", 1e-5, "--bandwidth", 1e9, "--batch", 8, "--training")
    found = report("partition", store, "--nparts", 3, *how, "--out", out)
    assert [found[name] for name in ("effort", "objective", "repeatable", "notes")] == ["fast", "time", True, []]
    asked = {"effort": "fast", "objective": "time", "latency": 1e-5, "bandwidth": 1e9, "batch": 8, "training": True}
    made = sdnn.partition(sdnn.open_store(store).network, 3, **asked)
    assert (found["volume"], found["messages"]) == (made.volume, made.messages)
    limited = ("--time-limit", 60, "--out", out, "--overwrite")
    assert "no: a time limit was set" in run("partition", store, "--nparts", 3, "--effort", "fast", *limited).out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--effort", "much"], ["unknown effort 'much'", "none, fast, default, best"]),
        (["--objective", "peace"], ["unknown objective 'peace'", "volume, time"]),
        (["--latency", 1e-6], ["leave out --latency"]),
        (["--objective", "time", "--latency", -1], ["latency -1.0"]),
        (["--objective", "time", "--batch", "1,64"], ["batch", "one batch size, not 2"]),
        (["--objective", "time", "--batch", "x"], ["batch"]),
        (["--time-limit", 0], ["time_limit 0.0"]),
    ],
)
def test_effort_and_objective_that_cannot_be_used(store, refused, tmp_path, options, says):
    refused("partition", store, "--nparts", 2, *options, "--out", tmp_path / "out.zarr", says=says)
