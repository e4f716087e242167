"""Who the workers of a Dask cluster are, and how much memory and how many threads each may use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from dasksdnn.errors import ClusterError, InputError, MemoryBudgetError
from dasksdnn.host import format_bytes, parse_bytes

#: Without a budget, this share of a worker's memory limit may be used: below where Dask begins to spill.
DEFAULT_SHARE = 0.6
#: A budget beyond this share of the limit is refused: Dask would spill, then pause the worker.
MOST_SHARE = 0.7
#: Seconds to wait for workers where there are none.
PATIENCE = 120.0
#: Seconds between looks at whether a worker that was asked is still there, and that the others get where it is not.
LOOK, MOMENT = 0.2, 1.0


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker of a Dask cluster.

    Attributes
    ----------
    address : str
        "tcp://10.0.0.7:41231". A worker that restarts has another one.
    name : str
        What the cluster calls it; kept where it restarts.
    host : str
        Where it runs: workers of one host may share memory.
    threads : int
        Tasks that it runs at a time.
    memory_limit : int
        Bytes that it may hold before its nanny ends it; 0 where it has no limit.
    """

    address: str
    name: str
    host: str
    threads: int
    memory_limit: int


def find_client(client: Any = None) -> Any:
    """The client to use: the one given, else the current default.

    Raises
    ------
    InputError
        There is none, or it is not a connected, synchronous `distributed.Client`.
    """
    from distributed import Client, default_client

    if client is None:
        try:
            client = default_client()
        except ValueError:
            raise InputError(
                "the Dask engine needs a client, and there is none: make one, as in client = distributed.Client(), "
                "or give client="
            ) from None
    if not isinstance(client, Client):
        raise InputError(f"client is {type(client).__name__}: give a distributed.Client")
    if client.asynchronous:
        raise InputError("client is asynchronous: give a synchronous one, Client(asynchronous=False)")
    if client.status != "running":
        raise InputError(f"client is {client.status}, not connected to a scheduler: make a new one")
    return client


def workers_of(client: Any) -> tuple[Worker, ...]:
    """The workers that there are now, by address.

    Workers that are paused or about to leave are not among them.
    """
    # Some releases tell of five workers only unless they are asked for all.
    known = client.scheduler_info(n_workers=-1)["workers"]
    found = (
        Worker(
            address,
            str(entry["name"]),
            str(entry.get("host") or urlsplit(address).hostname or address),
            int(entry["nthreads"]),
            int(entry["memory_limit"] or 0),
        )
        for address, entry in known.items()
        if entry.get("status", "running") == "running"
    )
    return tuple(sorted(found, key=lambda worker: worker.address))


def ask(client: Any, function: Callable[..., Any], *args: Any, workers: Sequence[str]) -> None:
    """Run a short function on workers, and wait for it; where one of them has gone, the others get a moment.

    Dask itself goes on for half a minute to try to reach a worker that has just gone.

    Parameters
    ----------
    client : distributed.Client
    function : callable
    *args
    workers : sequence of str
        Their addresses.
    """

    def run() -> None:
        with suppress(Exception):  # the client may be closed meanwhile; workers' own errors are ignored
            client.run(function, *args, workers=list(workers), on_error="ignore")

    thread = Thread(target=run, name="dasksdnn-ask", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(LOOK)
        if client.status != "running" or not set(client.scheduler_info(n_workers=-1)["workers"]).issuperset(workers):
            thread.join(MOMENT)
            return


def wait_for_workers(
    client: Any, *, patience: float | None = None, tell: Callable[[str], None] | None = None
) -> tuple[Worker, ...]:
    """The workers that there are; waits for the first one.

    Parameters
    ----------
    client : distributed.Client
    patience : float, optional
        Seconds; by default two minutes.
    tell : callable, optional
        Given a line to show, once, where there is none yet.

    Raises
    ------
    ClusterError
        None came.
    """
    patience = PATIENCE if patience is None else patience
    end, wanted = monotonic() + patience, None
    while not (workers := workers_of(client)):
        if wanted is None:  # a cluster that adapts starts workers where it sees a task
            wanted = client.submit(int, key=f"sdnn-wait-{uuid4().hex}", pure=False)
            if tell is not None:
                tell(f"no worker at {client.scheduler.address}: waiting up to {patience:.0f} s for one")
        if monotonic() > end:
            raise ClusterError(
                f"no worker came to {client.scheduler.address} within {patience:.0f} s: start workers, or scale the cluster up"
            )
        sleep(0.1)
    return workers


def budget_of(worker: Worker, memory: str | int | None = None) -> int | None:
    """Bytes that a worker's process may hold at its peak.

    Parameters
    ----------
    worker : Worker
    memory : str or int, optional
        What the user allows each worker; by default 60% of the worker's limit, below where Dask spills.

    Returns
    -------
    int or None
        None where neither is known: then what is free on the worker decides.

    Raises
    ------
    MemoryBudgetError
        More than 70% of the worker's limit.
    """
    budget = parse_bytes(memory)
    if budget is None:
        return int(DEFAULT_SHARE * worker.memory_limit) or None
    if worker.memory_limit and budget > MOST_SHARE * worker.memory_limit:
        raise MemoryBudgetError(
            f"a memory budget of {format_bytes(budget)} cannot work on worker {worker.name}: its limit is "
            f"{format_bytes(worker.memory_limit)}, and Dask spills from {MOST_SHARE:.0%} of it on; give at most "
            f"{format_bytes(MOST_SHARE * worker.memory_limit)}, or start workers with a higher limit"
        )
    return budget


def least_budget(workers: Sequence[Worker], memory: str | int | None = None) -> int | None:
    """The budget that suits all workers: that of the smallest."""
    budgets = [budget for worker in workers if (budget := budget_of(worker, memory)) is not None]
    return min(budgets, default=None)


def current_worker() -> Worker | None:
    """The worker that this thread runs a task of; None outside of tasks."""
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:
        return None
    limit = int(worker.memory_manager.memory_limit or 0)
    host = urlsplit(worker.address).hostname or worker.address
    return Worker(worker.address, str(worker.name), host, int(worker.state.nthreads), limit)
