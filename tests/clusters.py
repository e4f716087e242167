"""Dask clusters of worker processes on this machine, for tests: on the loopback interface, all files in a temporary folder."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, contextmanager
from time import monotonic, sleep

import pytest


@contextmanager
def running_cluster(folder, *, workers=2, threads=1, memory="1GiB", processes=True, protocol="tcp"):
    """A client of a new LocalCluster; `client.cluster` is the cluster. It is not the default client: no other test computes on it."""
    import dask
    from distributed import Client, LocalCluster

    with (
        dask.config.set({"temporary-directory": str(folder)}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            memory_limit=memory,
            processes=processes,
            protocol=protocol,
            host="127.0.0.1" if protocol == "tcp" else None,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            local_directory=str(folder),
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        if workers:
            client.wait_for_workers(workers, timeout=60)
        yield client


@pytest.fixture(autouse=True)
def by_value(request):
    """Functions of a test's module go to workers as they are: workers cannot import it."""
    if {"cluster", "new_cluster"} & set(request.fixturenames):
        import cloudpickle

        cloudpickle.register_pickle_by_value(request.module)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A client of two worker processes of one thread each, shared by the tests of a module that leave its workers as they are.

    Not longer: its scheduler takes memory in this process, which other tests measure."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as client:
        yield client


@pytest.fixture
def new_cluster(tmp_path_factory):
    """Make clusters whose workers may be killed: `new_cluster(workers=2, threads=1, memory="1GiB")` gives a client."""
    with ExitStack() as held:

        def make(**settings):
            return held.enter_context(running_cluster(tmp_path_factory.mktemp("cluster"), **settings))

        yield make


class Slow:
    """A dataset that every worker can read, which takes a while, notes in a folder who reads, and may end who does."""

    name, block, shared = "slow", 10, True

    def __init__(self, x, folder, seconds=0.03, deadly=None):
        self.x, self.folder, self.seconds, self.deadly = x, folder, seconds, deadly
        self.samples, self.features = x.shape

    def read(self, start, stop):
        (self.folder / str(os.getpid())).touch()
        if self.deadly is not None and start <= self.deadly < stop:
            os.kill(os.getpid(), signal.SIGKILL)
        sleep(self.seconds)
        return self.x[start:stop]

    def block_bytes(self, samples):
        return samples * self.features * self.x.itemsize

    def close(self):
        pass


def pids(client):
    """Address of each worker that answers -> its process."""
    return client.run(os.getpid, on_error="ignore")


def until(reached, seconds=30):
    """Wait until something is so, and fail where it does not come."""
    end = monotonic() + seconds
    while not reached():
        assert monotonic() < end, "it did not come to that"
        sleep(0.02)
