"""Running on many processes from the command line: the options that say where, and what is there while a command runs."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import click

from dasksdnn import config, host
from dasksdnn.cli.options import PATH, number
from dasksdnn.diagnostics.progress import progress
from dasksdnn.errors import ClusterError, InputError
from dasksdnn.events import Listener, ignore

#: Seconds to wait for a scheduler to answer, and for the processes of a cluster of our own to be there or to end.
PATIENCE = 15
#: The least limit of a worker of our own: with less it could not start, and tell what it needs.
LEAST_LIMIT = 1 << 30


def _engine(*names: str) -> Callable[..., Any]:
    among = ", or among the processes that mpiexec started" if "mpi" in names else ""
    return click.option(
        "--engine",
        type=click.Choice(names),
        default="local",
        show_default=True,
        help=f"In this process, on Dask workers{among}; --memory and --threads are then each one's.",
    )


SCHEDULER = click.option("--scheduler", metavar="ADDRESS", help="Dask's scheduler, such as tcp://10.0.0.1:8786.")
WORKERS = number("--workers", "Instead of a scheduler: start so many workers on this machine, for this command.")
STRATEGY = click.option(
    "--strategy",
    type=click.Choice(["samples", "parts"]),
    help="Split the samples over workers or ranks, or the parts of the network.  [default: what should be faster; with MPI "
    "parts]",
)
TRACE = click.option(
    "--trace",
    metavar="FILE",
    type=PATH,
    help="With MPI: a timeline of all ranks to make, for chrome://tracing or Perfetto.",
)


def on_dask(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where a command runs: engine (local or dask), scheduler, workers."""
    return _where(command, "local", "dask")


def on_engines(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a command that MPI's ranks can run, too, with a trace."""
    return _where(TRACE(command), "local", "dask", "mpi")


def _where(command: Callable[..., Any], *engines: str) -> Callable[..., Any]:
    for option in (WORKERS, SCHEDULER, _engine(*engines)):
        command = option(command)
    return command


def check_engine(engine: str, strategy: str | None, trace: Path | None = None) -> None:
    """Refuse options that the engine has no use for."""
    if engine == "local" and strategy is not None:
        raise InputError("--strategy is for --engine dask or mpi: add it, or leave it out")
    if engine != "mpi" and trace is not None:
        raise InputError("--trace is for --engine mpi: add it, or leave it out")


class Ranks:
    """Who runs a command: this process alone, or all ranks of an MPI launcher, of which the first prints and writes."""

    def __init__(self, world: Any = None) -> None:
        self._world = world

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes."""
        return self._world is None or bool(self._world.leads)

    def progress(self) -> AbstractContextManager[Listener]:
        """Progress on stderr, of the first rank's work where there are many."""
        return progress() if self.leads else nullcontext(ignore)


@contextmanager
def ranks(engine: str) -> Iterator[Ranks]:
    """See to it, where MPI's ranks run the command, that what ends one of them ends all."""
    if engine != "mpi":
        yield Ranks()
        return
    from dasksdnn.engines.mpi.world import World

    with World().together() as world:
        yield Ranks(world)


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
    if engine != "dask":
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
