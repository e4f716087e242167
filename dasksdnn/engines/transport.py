"""Messages between the owners of a run, whatever carries them: shared memory, a worker's comms, MPI.

Every owner runs the same program, so messages need no tags: those of an ordered pair arrive in the order in which they
were sent.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dasksdnn.network import Array


@dataclass(frozen=True, slots=True)
class Wire:
    """How compiled code sends messages itself (see `kernels.wire`), between the same ranks.

    Attributes
    ----------
    communicator : int
    datatypes : dict of dtype name -> int
        Handles of the types of values.
    request, status : int
        Their bytes.
    events : int
        How many events are noted for a trace.
    """

    communicator: int
    datatypes: dict[str, int]
    request: int
    status: int
    events: int = 0


class Transport(Protocol):
    """What carries arrays between ranks.

    Attributes
    ----------
    rank, size : int
    sent : int
        Bytes sent so far, those of compiled code apart.
    wire : Wire or None
        None: compiled code cannot send.
    """

    rank: int
    size: int
    sent: int
    wire: Wire | None

    def send(self, to: int, values: Array) -> None:
        """Send a C-contiguous array of any dtype, whose memory may be reused on return. May wait for the receiver."""

    def receive(self, source: int, out: Array) -> None:
        """Wait for the next message of `source`, and put it into `out`, which has to be of its size."""

    def exchange(self, sends: Sequence[tuple[int, Array]], receives: Sequence[tuple[int, Array]]) -> None:
        """All of these at once: no two ranks wait for each other, however large the messages."""

    def close(self) -> None:
        """Give everything back; who still waits for a message of this rank gets an error."""


class Alone:
    """A run of one rank."""

    rank, size, sent = 0, 1, 0
    wire: Wire | None = None

    def send(self, to: int, values: Array) -> None:
        """See `Transport`."""
        raise ValueError("a run of one rank has nobody to send to")

    def receive(self, source: int, out: Array) -> None:
        """See `Transport`."""
        raise ValueError("a run of one rank has nobody to receive from")

    def exchange(self, sends: Sequence[tuple[int, Array]], receives: Sequence[tuple[int, Array]]) -> None:
        """See `Transport`."""
        if sends or receives:
            raise ValueError("a run of one rank has nobody to exchange with")

    def close(self) -> None:
        """See `Transport`."""


def gather(transport: Transport, value: Any) -> list[Any]:
    """Every rank's value, in the order of ranks, at every rank. Values are pickled, and small."""
    if transport.size == 1:
        return [value]
    others = [rank for rank in range(transport.size) if rank != transport.rank]
    mine: Array = np.frombuffer(pickle.dumps(value), np.uint8)
    length, lengths = np.array([mine.size], np.int64), {rank: np.zeros(1, np.int64) for rank in others}
    transport.exchange([(rank, length) for rank in others], list(lengths.items()))
    found = {rank: np.empty(int(lengths[rank][0]), np.uint8) for rank in others}
    transport.exchange([(rank, mine) for rank in others], list(found.items()))
    return [value if rank == transport.rank else pickle.loads(found[rank].data) for rank in range(transport.size)]


def tell(transport: Transport, value: Any) -> Any:
    """Rank 0's value, at every rank."""
    return gather(transport, value if transport.rank == 0 else None)[0]
