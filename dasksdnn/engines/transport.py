"""Messages between the owners of a run, whatever carries them: shared memory, a worker's comms, MPI.

Every owner runs the same program, so messages need no tags: those of an ordered pair arrive in the order in which they
were sent.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
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

    def start(self, sends: Sequence[tuple[int, Array]], receives: Sequence[tuple[int, Array]]) -> Callable[[], None]:
        """Begin to exchange C-contiguous arrays of any dtype; what is received has to be of its target's size.

        Returns what waits for the end: until then, none of the arrays may be touched. No two ranks wait for each other,
        however large the messages, where each ends its exchanges in the order in which it started them.
        """

    def close(self) -> None:
        """Give everything back; who still waits for a message of this rank gets an error."""


class Alone:
    """A run of one rank."""

    rank, size, sent = 0, 1, 0
    wire: Wire | None = None

    def start(self, sends: Sequence[tuple[int, Array]], receives: Sequence[tuple[int, Array]]) -> Callable[[], None]:
        """See `Transport`."""
        if sends or receives:
            raise ValueError("a run of one rank has nobody to exchange with")
        return lambda: None

    def close(self) -> None:
        """See `Transport`."""


def exchange(transport: Transport, sends: Sequence[tuple[int, Array]], receives: Sequence[tuple[int, Array]]) -> None:
    """All of these at once, from the start to the end."""
    transport.start(sends, receives)()


def gather(transport: Transport, value: Any) -> list[Any]:
    """Every rank's value, in the order of ranks, at every rank. Values are pickled, and small."""
    if transport.size == 1:
        return [value]
    others = [rank for rank in range(transport.size) if rank != transport.rank]
    mine: Array = np.frombuffer(pickle.dumps(value), np.uint8)
    length, lengths = np.array([mine.size], np.int64), {rank: np.zeros(1, np.int64) for rank in others}
    exchange(transport, [(rank, length) for rank in others], list(lengths.items()))
    found = {rank: np.empty(int(lengths[rank][0]), np.uint8) for rank in others}
    exchange(transport, [(rank, mine) for rank in others], list(found.items()))
    return [value if rank == transport.rank else pickle.loads(found[rank].data) for rank in range(transport.size)]


def tell(transport: Transport, value: Any) -> Any:
    """Rank 0's value, at every rank."""
    return gather(transport, value if transport.rank == 0 else None)[0]
