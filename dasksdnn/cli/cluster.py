"""Running on Dask from the command line: the options that say where, and the cluster that is there while a command runs."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import click

from dasksdnn import config, host
from dasksdnn.cli.options import number
from dasksdnn.errors import ClusterError, InputError

#: Seconds to wait for a scheduler to answer, and for the processes of a cluster of our own to be there or to end.
PATIENCE = 15
#: The least limit of a worker of our own: with less it could not start, and tell what it needs.
LEAST_LIMIT = 1 << 30

ENGINE = click.option(
    "--engine",
    type=click.Choice(["local", "dask"]),
    default="local",
    show_default=True,
    help="In this process, or on Dask workers; --memory and --threads are then each worker's.",
)
SCHEDULER = click.option("--scheduler", metavar="ADDRESS", help="Dask's scheduler, such as tcp://10.0.0.1:8786.")
WORKERS = number("--workers", "Instead of a scheduler: start so many workers on this machine, for this command.")
STRATEGY = click.option(
    "--strategy",
    type=click.Choice(["samples", "parts"]),
    help="On Dask: split the samples over the workers, or the parts of the network.  [default: what should be faster]",
)


def on_dask(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where a command runs: engine, scheduler, workers."""
    for option in (WORKERS, SCHEDULER, ENGINE):
        command = option(command)
    return command


def check_strategy(engine: str, strategy: str | None) -> None:
    if engine == "local" and strategy is not None:
        raise InputError("--strategy is for --engine dask: add it, or leave it out")


@contextmanager
def chosen_client(
    engine: str, scheduler: str | None, workers: int | None, memory: str | None, threads: int | None
) -> Iterator[Any]:
    """Give a client of the cluster that the options name, until the block ends; None for the local engine.

    Raises
    ------
    InputError
        The options do not go together, or the address is none.
    ClusterError
        No scheduler answers, or workers do not start.
    """
    if engine == "local":
        if scheduler is not None or workers is not None:
            raise InputError("--scheduler and --workers are for --engine dask: add it, or leave them out")
        yield None
        return
    if (scheduler is None) == (workers is None):
        raise InputError("--engine dask: say where, either --scheduler ADDRESS or --workers N")
    with ExitStack() as held:
        if scheduler is not None:
            yield held.enter_context(_client_of(scheduler))
        else:
            assert workers is not None
            yield held.enter_context(_own_cluster(workers, memory, threads))


@contextmanager
def _client_of(address: str) -> Iterator[Any]:
    from distributed import Client

    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise ClusterError(f"--scheduler {address}: no scheduler answers ({_first_line(error)})") from error
    except (ValueError, TypeError) as error:
        raise InputError(
            f"--scheduler {address}: is no address ({_first_line(error)}): write tcp://HOST:PORT"
        ) from error
    with client:
        yield client


@contextmanager
def _own_cluster(workers: int, memory: str | None, threads: int | None) -> Iterator[Any]:
    """Start worker processes that only this machine can reach; whatever ends the block ends them."""
    import dask.config
    from distributed import Client, LocalCluster

    from dasksdnn.engines.cluster.workers import DEFAULT_SHARE
    from dasksdnn.engines.inference import check_threads

    if workers < 1:
        raise InputError(f"--workers is {workers}: it must be at least 1")
    named = host.parse_bytes(memory if memory is not None else config.get("memory"))
    # The budget stays below where Dask spills; a worker that has none takes its share of what is free.
    wanted = named / DEFAULT_SHARE if named else 0.8 * host.memory_available() / workers
    given = threads if threads is not None else config.get("threads")
    count = max(1, host.threads() // workers) if given is None else check_threads(given)
    with ExitStack() as held:
        scratch = held.enter_context(
            tempfile.TemporaryDirectory(prefix="dasksdnn-workers-", ignore_cleanup_errors=True)
        )
        held.enter_context(dask.config.set({"temporary-directory": scratch}))  # for the scheduler
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=count,
                memory_limit=max(LEAST_LIMIT, math.ceil(wanted)),
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                worker_dashboard_address=None,
                local_directory=scratch,
                silence_logs=logging.CRITICAL,  # what goes wrong is told in one line, by us
            )
        except (OSError, RuntimeError, TimeoutError) as error:
            raise ClusterError(f"--workers {workers}: they cannot be started ({_first_line(error)})") from error
        held.enter_context(cluster)
        client = held.enter_context(Client(cluster, set_as_default=False))
        with suppress(TimeoutError):  # those that have come are enough
            client.wait_for_workers(workers, timeout=PATIENCE)
        yield client


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0] or type(error).__name__
