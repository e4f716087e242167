"""A `Transport` between the ranks of an MPI communicator."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dasksdnn.engines.transport import Wire
from dasksdnn.errors import PeerLostError
from dasksdnn.kernels import wire
from dasksdnn.network import Array


class Messages:
    """See `Transport`. Made by all ranks of a communicator at the same time.

    Parameters
    ----------
    communicator : mpi4py.MPI.Comm
        Duplicated: no message of anybody else is taken for one of these.
    events : int
        How many events of exchanges compiled code is to note for a trace.
    """

    def __init__(self, communicator: Any, events: int = 0) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self._communicator, self._compiled = communicator.Dup(), communicator.Dup()
        # Compiled code looks at no result of a call: MPI ends the run where one fails.
        self._compiled.Set_errhandler(MPI.ERRORS_ARE_FATAL)
        self.rank, self.size, self.sent = int(communicator.Get_rank()), int(communicator.Get_size()), 0
        wire.bind(ctypes.CDLL(MPI.__file__))
        self.wire: Wire | None = Wire(
            communicator=_handle(MPI, self._compiled),
            datatypes={"float32": _handle(MPI, MPI.FLOAT), "float64": _handle(MPI, MPI.DOUBLE)},
            request=MPI._sizeof(MPI.Request),
            status=MPI._sizeof(MPI.Status),
            events=events,
        )

    def start(self, sends: Sequence[tuple[int, Array]], receives: Sequence[tuple[int, Array]]) -> Callable[[], None]:
        """See `Transport`."""
        requests = [self._communicator.Irecv(self._buffer(out), source) for source, out in receives]
        for to, values in sends:
            self.sent += values.nbytes
            requests.append(self._communicator.Isend(self._buffer(values), to))

        def finish() -> None:
            statuses = [self._mpi.Status() for _ in requests]
            self._mpi.Request.Waitall(requests, statuses)
            for (source, out), status in zip(receives, statuses, strict=False):
                self._check(status, source, out)

        return finish

    def close(self) -> None:
        """Give the communicators back."""
        for communicator in (self._communicator, self._compiled):
            if communicator != self._mpi.COMM_NULL:
                communicator.Free()
        self.wire = None

    def _buffer(self, values: Array) -> list[Any]:
        if not values.flags.c_contiguous:
            raise ValueError("a message must be contiguous")
        return [values.reshape(-1).view(np.uint8), self._mpi.BYTE]

    def _check(self, status: Any, source: int, out: Array) -> None:
        found = status.Get_count(self._mpi.BYTE)
        if found != out.nbytes:
            raise PeerLostError(
                f"rank {source} sent {found} bytes, where {out.nbytes} were to come: it is at another step"
            )


def _handle(mpi: Any, thing: Any) -> int:
    """The C handle as a number: an int, or a pointer."""
    held = ctypes.string_at(mpi._addressof(thing), mpi._sizeof(thing))
    return int.from_bytes(held, sys.byteorder)
