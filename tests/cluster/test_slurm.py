"""On a real Slurm of one machine with two virtual nodes: the recipe's jobs, the example, and the loss of a node."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from clusters import until
from notebooks import run_notebook
from slurm import NODES, shared_memory

import dasksdnn as sdnn
from dasksdnn.store.locating import generations

pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: pip install 'dasksdnn[cluster]'")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
#: A job is small enough that each node holds one, and too large for two.
JOB = {"queue": "tests", "cores": 2, "memory": "2GiB", "minutes": 30}

pytestmark = pytest.mark.slurm


@pytest.fixture
def shell(slurm, monkeypatch):
    """This process runs Slurm's commands as its user would."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm.env[name])
    monkeypatch.syspath_prepend(EXAMPLES)
    yield slurm
    slurm.mend()


def prologue():
    """The nodes' Python is the one of here."""
    return [f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"]


def nodes_of(client):
    """The node of each worker."""
    return sorted(client.run(os.getenv, "SLURMD_NODENAME").values())


def listening(pids):
    """Addresses that processes listen on."""
    import psutil

    found = set()
    for pid in pids:
        try:
            connections = psutil.Process(pid).net_connections("inet")
        except psutil.Error:
            continue
        found |= {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    return found


@pytest.fixture
def new_cluster(shell, tmp_path):
    """Make a client of the recipe's cluster, which replaces the jobs it loses."""
    from distributed import Client
    from jobqueue import slurm_cluster

    @contextmanager
    def make(jobs, **more):
        scratch = {"scratch": str(tmp_path), "log_directory": str(tmp_path), "prologue": prologue()}
        soon = dask.config.set({"distributed.deploy.lost-worker-timeout": "2s"})
        with soon, slurm_cluster(**JOB, **scratch, interface="lo", **more) as cluster, Client(cluster) as client:
            cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
            client.wait_for_workers(jobs, timeout=60)
            yield client
            memory = set().union(*map(shared_memory, shell.processes()))
        until(lambda: shell.jobs() == {})
        until(lambda: not any(path.exists() for path in memory))  # the jobs ended in order

    return make


def squares(client, count):
    """Futures of the squares of numbers, each of which takes a while."""

    def slow_square(n):  # in here, so that workers need not import this module
        time.sleep(0.2)
        return n * n

    return client.map(slow_square, range(count))


def test_a_lost_node_costs_its_job_alone(shell, new_cluster):
    with new_cluster(jobs=2) as client:
        assert nodes_of(client) == list(NODES)
        assert listening([os.getpid(), *shell.processes()]) == {"127.0.0.1"}

        futures = squares(client, 80)
        until(lambda: sum(future.done() for future in futures) > 10)
        shell.lose("n2")
        assert client.gather(futures) == [n * n for n in range(80)]
        assert nodes_of(client) == ["n1"]

        shell.start_node("n2")
        until(lambda: len(client.scheduler_info()["workers"]) == 2, seconds=60)
        assert nodes_of(client) == list(NODES)


def test_jobs_that_end_by_their_time_are_replaced(shell, new_cluster):
    from distributed import as_completed

    args = ["--lifetime", "6s", "--lifetime-stagger", "3s", "--dashboard-address", "127.0.0.1:0"]
    with new_cluster(jobs=2, worker_extra_args=args) as client:
        first = set(shell.jobs())
        futures = squares(client, 120)
        # Each is taken as it comes: what one who leaves holds is lost where nobody else is there to take it over.
        assert sorted(n for _, n in as_completed(futures, with_results=True)) == [n * n for n in range(120)]
        until(lambda: shell.jobs() and not first & set(shell.jobs()))


def test_the_dashboard_shows_runs_on_jobs(shell, new_cluster, tmp_path):
    pytest.importorskip("bokeh", reason="bokeh is not installed: pip install 'dasksdnn[dashboard]'")
    import dasksdnn.dashboard

    net = sdnn.radixnet(neurons=256, layers=8, bias=0.0)
    store = sdnn.save(net, tmp_path / "net.zarr", partition=sdnn.partition(net, 4, method="block"))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((2_000, 256), dtype=np.float32))
    with new_cluster(jobs=2) as client:
        with urllib.request.urlopen(dasksdnn.dashboard.register(client)) as page:
            assert page.status == 200
        sdnn.infer(store, tmp_path / "x.npy", out="categories", client=client, strategy="parts")
        until(lambda: all(found := client.run_on_scheduler(_words)) and found[0] == found[1])


def _words(dask_scheduler):
    """Words planned and sent of the run that the dashboard shows."""
    run = dask_scheduler.plugins["dasksdnn-dashboard"].state.run
    return int(run.expected.sum()), int(run.measured.sum())


@contextmanager
def running_example(shell, folder, work, **options):
    """slurm.py as its user starts it, for the store and samples in a folder; killed where the block does not wait for it."""
    places = {"store": folder / "net.zarr", "x": folder / "x.npy", "scratch": folder / "scratch"}
    given = {**JOB, **places, "log_directory": folder / "logs", "interface": "lo", "prologue": prologue()[0], **options}
    flags = chain(*((f"--{name.replace('_', '-')}", str(value)) for name, value in given.items()))
    command = [sys.executable, "-W", "error", str(EXAMPLES / "slurm.py"), work, *flags]
    with subprocess.Popen(command, env=shell.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as example:
        try:
            yield example
        finally:
            example.kill()


def wait_for(example, reached):
    """Wait until the example has come so far, and fail with what it said where it has ended."""
    until(lambda: reached() or example.poll() is not None, seconds=90)
    assert example.poll() is None, example.communicate()


def finish(example):
    """What a run of the example printed, and what it warned of."""
    told, warned = example.communicate(timeout=180)
    assert example.returncode == 0, warned
    return told, warned


def written(folder):
    """Chunks of outputs written so far, before and after the array gets its name."""
    return [path for path in folder.glob("*y.zarr*/**/c/*/*") if path.is_file()]


def test_inference_loses_a_node_and_finishes(shell, tmp_path):
    # By He's rule values neither die nor grow, so that outputs tell one sample from another.
    store = sdnn.save(sdnn.initialise(sdnn.radixnet(neurons=1024, layers=120), seed=3), tmp_path / "net.zarr")
    x = np.random.default_rng(3).random((40_000, 1024), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    with running_example(shell, tmp_path, "infer", out=tmp_path / "y.zarr") as example:
        wait_for(example, lambda: len(written(tmp_path)) > 4)
        shell.lose("n2")
        assert not (tmp_path / "y.zarr").exists()  # it was not too late
        told, _ = finish(example)
    assert "2 workers, on n1, n2" in told
    expected = np.empty((40_000, 1024), np.float32)
    sdnn.infer(store, x, out=expected)
    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "y.zarr")[:], expected)
    assert shell.jobs() == {}


def test_training_loses_a_node_and_finishes(shell, tmp_path):
    layers = sdnn.initialise(sdnn.radixnet(neurons=1024, layers=6), seed=4)
    net = sdnn.Network.from_layers(
        [*layers, *sdnn.random_sparse([1024, 10], 1.0, seed=4)], "six layers and ten classes"
    )
    alone = sdnn.save(net, tmp_path / "alone.zarr")
    store = sdnn.save(net, tmp_path / "net.zarr", partition=sdnn.partition(net, nparts=2, method="block"))
    rng = np.random.default_rng(4)
    centres = rng.random((10, 1024), dtype=np.float32)
    classes = rng.integers(0, 10, 20_000)
    x = centres[classes] + rng.standard_normal((20_000, 1024), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "classes.npy", classes)
    # Momentum: Adam's first steps are signs, which rounding turns where gradients are next to nothing.
    wanted = {"epochs": 4, "batch_size": 256, "optimizer": "momentum", "lr": 0.001}
    with running_example(shell, tmp_path, "train", classes=tmp_path / "classes.npy", **wanted) as example:
        wait_for(example, lambda: len(generations(store.path)) > 1)
        shell.lose("n2")
        told, warned = finish(example)
    assert "2 workers, on n1, n2" in told
    assert "training goes on from its last checkpoint" in warned
    sdnn.train(alone, x, classes, **wanted)
    outputs = [sdnn.infer(tmp_path / name, x[:1000]).compute() for name in ("net.zarr", "alone.zarr")]
    assert np.mean(outputs[1].argmax(1) == classes[:1000]) > 0.7
    np.testing.assert_allclose(*outputs, atol=0.01)


def test_the_notebook(shell, tmp_path, monkeypatch):
    given = {"QUEUE": JOB["queue"], "CORES": JOB["cores"], "MEMORY": JOB["memory"], "INTERFACE": "lo"}
    places = {"SHARED": tmp_path, "PROLOGUE": prologue()[0]}
    environment = {f"SDNN_{name}": value for name, value in {**given, **places}.items()}
    printed = run_notebook("slurm_cluster.ipynb", tmp_path, monkeypatch, **environment)
    assert "on 2 nodes" in printed[-1]
    assert shell.jobs() == {}
