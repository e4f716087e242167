"""How long a message between two ranks takes, sent by the calls with which compiled code exchanges rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from dasksdnn.compiling import compiled
from dasksdnn.engines.transport import Transport
from dasksdnn.kernels.wire import clock, post_receive, post_send, wait_all

#: Bytes of a long message, round trips of a short one and of a long one, after as many that do not count.
LONG, SHORT_TRIPS, LONG_TRIPS = 1 << 20, 2000, 50


def ping_pong(transport: Transport) -> tuple[float, float]:
    """Latency and bandwidth between rank 0 and rank 1, of which each calls this while all others are quiet.

    Returns
    -------
    (float, float)
        Seconds of a message of one word, and bytes a second in what a long one takes longer: medians of round trips.
    """
    short = _seconds(transport, 1, SHORT_TRIPS)
    return short, LONG / max(_seconds(transport, LONG // 4, LONG_TRIPS) - short, 1e-9)


def _seconds(transport: Transport, words: int, trips: int) -> float:
    """Of a message of so many float32, one way."""
    wire = transport.wire
    if wire is None:
        raise ValueError("the transport lets compiled code send nothing")
    handles = np.array([wire.communicator, wire.datatypes["float32"]], np.int64)
    request, status = np.zeros(wire.request, np.uint8), np.zeros(wire.status, np.uint8)
    values, taken = np.zeros(words, np.float32), np.zeros(2 * trips, np.int64)
    _bounce(values, transport.rank, handles, request, status, taken, np.zeros(2, np.int64))
    median: Any = np.median(taken[trips:])
    return float(median) / 2e9


@compiled
def _bounce(values, rank, handles, request, status, taken, place):  # type: ignore[no-untyped-def]
    communicator, datatype, other = handles[0], handles[1], 1 - rank
    for i in range(taken.size):
        began = clock(place)
        if rank == 0:
            post_send(values, other, communicator, datatype, request)
            wait_all(1, request, status)
        post_receive(values, other, communicator, datatype, request)
        wait_all(1, request, status)
        if rank == 1:
            post_send(values, other, communicator, datatype, request)
            wait_all(1, request, status)
        taken[i] = clock(place) - began
