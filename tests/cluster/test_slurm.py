"""On a real Slurm of one machine with two virtual nodes: the recipe's jobs, the example, and the loss of a node."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from clusters import until
from slurm import NODES, SlurmError, running_slurm

import dasksdnn as sdnn

pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: pip install 'dasksdnn[cluster]'")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
#: A job is small enough that each node holds one, and too large for two.
JOB = {"queue": "tests", "cores": 2, "memory": "2GiB", "minutes": 30}

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def slurm():
    try:
        with running_slurm() as running:
            yield running
    except SlurmError as error:
        pytest.skip(str(error))
    assert running.processes() == []
    assert not running.folder.exists()


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
        until(lambda: shell.jobs() == {})

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


@contextmanager
def running_example(shell, folder, *arguments):
    """slurm.py as its user starts it, for the store and samples in a folder; killed where the block does not wait for it."""
    files = {"--store": "net.zarr", "--x": "x.npy", "--out": "y.zarr"}
    jobs = {f"--{name}": str(value) for name, value in JOB.items()}
    jobs |= {"--interface": "lo", "--scratch": str(folder / "scratch"), "--log-directory": str(folder / "logs")}
    options = {**{option: str(folder / name) for option, name in files.items()}, **jobs, "--prologue": prologue()[0]}
    command = [sys.executable, "-W", "error", str(EXAMPLES / "slurm.py"), *chain(*options.items()), *arguments]
    with subprocess.Popen(command, env=shell.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as example:
        try:
            yield example
        finally:
            example.kill()


def finish(example):
    """What a run of the example printed."""
    out, err = example.communicate(timeout=180)
    assert example.returncode == 0, err
    return out


def written(folder):
    """Chunks of outputs written so far, before and after the array gets its name."""
    return [path for path in folder.glob("*y.zarr*/**/c/*/*") if path.is_file()]


def test_inference_loses_a_node_and_finishes(shell, tmp_path):
    # By He's rule values neither die nor grow, so that outputs tell one sample from another.
    store = sdnn.save(sdnn.initialise(sdnn.radixnet(neurons=1024, layers=120), seed=3), tmp_path / "net.zarr")
    x = np.random.default_rng(3).random((40_000, 1024), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    with running_example(shell, tmp_path) as example:
        until(lambda: len(written(tmp_path)) > 4 or example.poll() is not None, seconds=90)
        shell.lose("n2")
        assert not (tmp_path / "y.zarr").exists()  # it was not too late
        told = finish(example)
    assert "2 workers, on n1, n2" in told
    expected = np.empty((40_000, 1024), np.float32)
    sdnn.infer(store, x, out=expected)
    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "y.zarr")[:], expected)
    assert shell.jobs() == {}
