"""On a real Slurm of one machine with two virtual nodes: the recipe's jobs, the example, and the loss of a node."""

from __future__ import annotations

import os
import shlex
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import dask
import pytest
from clusters import until
from slurm import NODES, SlurmError, running_slurm

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
    return slurm


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
