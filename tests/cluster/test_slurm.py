"""On a real Slurm of one machine with two virtual nodes: the recipe's jobs, the example, and the loss of a node."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path

import dask
import pytest
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


def until(what, reached, seconds=60):
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"not so after {seconds} s: {what}"
        time.sleep(0.1)


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


def test_a_lost_node_costs_its_job_alone(shell, tmp_path):
    from distributed import Client
    from jobqueue import slurm_cluster

    def slow_square(n):  # in here, so that workers need not import this module
        time.sleep(0.2)
        return n * n

    scratch = {"scratch": str(tmp_path), "log_directory": str(tmp_path), "prologue": prologue(), "interface": "lo"}
    soon = dask.config.set({"distributed.deploy.lost-worker-timeout": "2s"})
    with soon, slurm_cluster(**JOB, **scratch) as cluster, Client(cluster) as client:
        cluster.adapt(minimum_jobs=2, maximum_jobs=2)
        client.wait_for_workers(2, timeout=60)
        assert nodes_of(client) == list(NODES)
        assert listening([os.getpid(), *shell.processes()]) == {"127.0.0.1"}

        futures = client.map(slow_square, range(80))
        until("some are done", lambda: sum(future.done() for future in futures) > 10)
        shell.lose("n2")
        assert client.gather(futures) == [n * n for n in range(80)]
        assert nodes_of(client) == ["n1"]

        shell.start_node("n2")
        until("a new job has come", lambda: len(client.scheduler_info()["workers"]) == 2)
        assert nodes_of(client) == list(NODES)
    until("the jobs have ended", lambda: shell.jobs() == {})
