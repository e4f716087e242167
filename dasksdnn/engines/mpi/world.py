"""The world of an MPI launcher: how many ranks there are, what each may use, and that none is left waiting for one that failed.

a rank fails  --all others fail, too, soon-->   each raises its own error: bad input is the same for all
--they go on-->                   it says why, and ends them all
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

from dasksdnn import host
from dasksdnn.engines.mpi.messages import Messages
from dasksdnn.errors import DaskSDNNError, InputError

#: Seconds that a rank which failed waits for the others to fail, too.
WAITING = 1.0
#: Seconds that a launcher gets to pass on what a rank said, before it ends them all.
TELLING = 0.5
#: What launchers tell a process of its rank and of how many there are.
LAUNCHERS = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMIX_RANK", "PMIX_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


def launched(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Rank and size as a launcher's environment has them; None where there is none."""
    found = [
        (int(environment[rank]), int(environment[size]))
        for rank, size in LAUNCHERS
        if environment.get(rank, "").isdigit() and environment.get(size, "").isdigit()
    ]
    return max(found, key=lambda each: each[1]) if found else None


class World:
    """The ranks that were started together.

    Attributes
    ----------
    transport : Messages
        Between all of them.
    local : int
        Ranks on this host.

    Raises
    ------
    InputError
        mpi4py or an MPI library is missing, or the launcher is another MPI's.
    """

    def __init__(self, events: int = 0) -> None:
        MPI = _mpi4py()
        self._mpi, everyone = MPI, MPI.COMM_WORLD
        told = launched(os.environ)
        if told is not None and told[1] > 1 and everyone.Get_size() == 1:
            library = " ".join(MPI.Get_library_version().split()[:3])
            raise InputError(
                f"the launcher started {told[1]} processes, but the MPI of mpi4py ({library}) knows of 1: they would all do "
                f"the same work; start them with that MPI's own launcher, such as {_launcher()}"
            )
        if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
            raise InputError(
                "MPI was started for one thread only: set mpi4py.rc.thread_level to 'multiple' before mpi4py.MPI is imported"
            )
        self._failed = everyone.Dup()
        self.transport = Messages(everyone, events)
        shared = everyone.Split_type(MPI.COMM_TYPE_SHARED)
        self.local = int(shared.Get_size())
        self._processors = len(set().union(*shared.allgather(_processors())))
        shared.Free()

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which prints and writes what is there once."""
        return self.transport.rank == 0

    @property
    def hosts(self) -> int:
        """How many there are, about: ranks are spread evenly."""
        return -(-self.transport.size // self.local)

    def threads(self) -> int:
        """Processors for each rank: those of its host are shared by the ranks there."""
        return max(1, min(host.threads(), self._processors // self.local))

    @contextmanager
    def together(self) -> Iterator[World]:
        """What ends one rank in here ends all: with an error of its own at each, or the process, if the others go on."""
        try:
            yield self
        except BaseException as error:
            # Communicators stay: freeing could wait for ranks that are not there, and messages may still be on their way.
            if self.transport.size > 1:
                self._fail(error)
            raise
        self.close()

    def _fail(self, error: BaseException) -> None:
        request, end = self._failed.Ibarrier(), monotonic() + WAITING
        while not (everyone := request.Test()) and monotonic() < end:
            sleep(0.005)
        if everyone:
            texts = self._failed.allgather(repr(error))
            # Only the first of those who say the same has to say it.
            error.__dict__["said_by"] = texts.index(repr(error))
            return
        _say(self.transport.rank, error)
        sleep(TELLING)
        status = 128 + 2 if isinstance(error, KeyboardInterrupt) else 2
        self._mpi.COMM_WORLD.Abort(status)
        os._exit(status)  # some launchers let a process live on for a while, which would say more

    def close(self) -> None:
        """Give the communicators back; all ranks do so."""
        self.transport.close()
        self._failed.Free()


def said_elsewhere(error: BaseException) -> bool:
    """Whether another rank says the same, and is the first to."""
    told = launched(os.environ)
    return told is not None and error.__dict__.get("said_by", told[0]) != told[0]


def _say(rank: int, error: BaseException) -> None:
    if isinstance(error, DaskSDNNError | KeyboardInterrupt):
        text = "; ".join(
            ["stopped" if isinstance(error, KeyboardInterrupt) else str(error), *getattr(error, "__notes__", [])]
        )
        sys.stderr.write(f"dasksdnn: rank {rank}: {' '.join(text.split())}\n")
    else:
        sys.stderr.write(f"dasksdnn: rank {rank}:\n")
        traceback.print_exception(error)
    sys.stderr.flush()


def _mpi4py() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a launcher that is another MPI's: see `World`
            from mpi4py import MPI
    except ImportError as error:
        raise InputError(
            f"the MPI engine needs mpi4py and an MPI library ({error}): pip install 'dasksdnn[mpi]'"
        ) from error
    except RuntimeError as error:
        raise InputError(
            f"mpi4py finds no MPI library ({' '.join(str(error).split())}): pip install 'dasksdnn[mpi]', or load your cluster's"
        ) from error
    return MPI


def _launcher() -> str:
    own = os.path.join(os.path.dirname(sys.executable), "mpiexec")
    return own if os.path.exists(own) else "mpiexec of the same installation"


def _processors() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
