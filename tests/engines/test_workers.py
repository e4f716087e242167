"""Who the workers are, and what they may use."""

from __future__ import annotations

import pytest
from clusters import pids

from dasksdnn.engines.cluster.workers import (
    Worker,
    budget_of,
    current_worker,
    find_client,
    least_budget,
    wait_for_workers,
    workers_of,
)
from dasksdnn.errors import ClusterError, InputError, MemoryBudgetError

GIB = 1 << 30


def test_the_workers_there_are(cluster):
    workers = workers_of(cluster)
    assert {worker.address for worker in workers} == set(pids(cluster))
    assert {worker.host for worker in workers} == {"127.0.0.1"}
    assert [(worker.threads, worker.memory_limit) for worker in workers] == [(1, GIB)] * 2
    inside = [
        cluster.submit(current_worker, workers=[worker.address], allow_other_workers=False, pure=False)
        for worker in workers
    ]
    assert tuple(cluster.gather(inside)) == workers
    assert current_worker() is None


def test_a_client_is_found_or_asked_for(cluster):
    assert find_client(cluster) is cluster
    with cluster.as_current():
        assert find_client() is cluster
    with pytest.raises(InputError, match="client is str"):
        find_client("tcp://127.0.0.1:1")
    with pytest.raises(InputError, match="needs a client"):
        find_client()


def test_no_worker_is_waited_for_and_then_an_error(new_cluster):
    client = new_cluster(workers=0)
    told = []
    with pytest.raises(ClusterError, match="no worker came to tcp://"):
        wait_for_workers(client, patience=0.3, tell=told.append)
    assert len(told) == 1
    client.cluster.scale(1)
    assert len(wait_for_workers(client)) == 1


def test_budgets():
    worker, boundless = Worker("tcp://a:1", "a", "a", 1, GIB), Worker("tcp://b:1", "b", "b", 1, 0)
    assert budget_of(worker) == int(0.6 * GIB)
    assert budget_of(worker, "100 MiB") == 100 << 20
    assert budget_of(boundless) is None
    assert budget_of(boundless, 5 * GIB) == 5 * GIB
    assert least_budget([boundless, worker]) == int(0.6 * GIB)
    assert least_budget([boundless]) is None
    with pytest.raises(MemoryBudgetError, match=r"worker a: its limit is 1.0 GiB"):
        budget_of(worker, "0.9 GiB")
