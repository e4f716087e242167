"""Exchanges between layers from compiled code: who gets which rows of a panel, before each layer and back.

    depart:  post receives, pack and send what others need of a tile     messages fly while other tiles are computed
    arrive:  wait for the tile's messages, put them where they belong

What departs before a layer is what its input lacks (expand); backwards, partial sums return and are added up in the order of
their senders (fold). Where a tile is full, rows are received into the panel itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dasksdnn.compiling import compiled
from dasksdnn.kernels.rows import add_up, pack, unpack
from dasksdnn.kernels.wire import clock, post_receive, post_send, wait_all
from dasksdnn.network import Array

#: What `Routes.tally` counts, forward and back: values and messages sent, nanoseconds.
WORDS, MESSAGES, PACKING, WAITING, COMPUTING = range(5)
COUNTED = 5
#: Columns of `Routes.events`: the layer, 1 where backward, the tile, what of the above, and when it began and ended.
EVENT = 6


class Routes(NamedTuple):
    """An owner's exchanges before each layer, buffers for them, and what they have cost.

    Attributes
    ----------
    handles : int64 array of shape (3,)
        Communicator, datatype of the values, bytes of a request.
    meets : bool array of shape (layers + 1,)
        Whether any owner exchanges anything before a layer (0-based).
    sends, receives : int64 arrays of shape (messages, 3)
        Rank, and first and last of `rows`, or of the panel's rows.
    sends_at, receives_at : int64 arrays of shape (layers + 2,)
        Where each layer's begin.
    rows : int64 array
        Rows of the panel that are sent.
    out, into : arrays of shape (tiles, words)
        Messages of one layer, end to end.
    requests, statuses : uint8 arrays of shape (tiles, bytes)
    open : int64 array of shape (tiles,)
        Requests of each tile that are on their way.
    tally : int64 array of shape (3, layers + 1, 5)
    events : int64 array of shape (events, 6)
        The first that happened; none where nobody asked for a trace.
    noted : int64 array of shape (1,)
        How many of them there are.
    clock : int64 array of shape (2,)
    """

    handles: Array
    meets: Array
    sends: Array
    receives: Array
    sends_at: Array
    receives_at: Array
    rows: Array
    out: Array
    into: Array
    requests: Array
    statuses: Array
    open: Array
    tally: Array
    events: Array
    noted: Array
    clock: Array


def quiet_routes(dtype: np.dtype[Any]) -> Routes:
    """Routes of one layer over which nothing is sent: kernels are compiled with them before it is known what will be."""

    def none(*shape: int) -> Array:
        return np.zeros(shape, np.int64)

    return Routes(
        none(3), np.zeros(2, np.bool_), none(0, 3), none(0, 3), none(3), none(3), none(0), np.zeros((1, 0), dtype),
        np.zeros((1, 0), dtype), np.zeros((1, 0), np.uint8), np.zeros((1, 0), np.uint8), none(1), none(2, 2, COUNTED),
        none(0, EVENT), none(1), none(2),
    )  # fmt: skip


@compiled
def begin(routes):  # type: ignore[no-untyped-def]
    """The time, to be given to `note`."""
    return clock(routes.clock)


@compiled
def note(routes, layer, back, tile, kind, began):  # type: ignore[no-untyped-def]
    """Count the time since `began` as of some kind; returns the time."""
    ended = clock(routes.clock)
    routes.tally[back, layer, kind] += ended - began
    i = routes.noted[0]
    if i < routes.events.shape[0]:
        event = routes.events[i]
        event[0], event[1], event[2], event[3], event[4], event[5] = layer, back, tile, kind, began, ended
        routes.noted[0] = i + 1
    return ended


@compiled
def depart(routes, layer, tile, panel, columns, back):  # type: ignore[no-untyped-def]
    """Send what others need of a tile before a layer (`back`: what they own of its deltas), and post what will come.

    `columns` samples of the panel count; it must not change before `arrive`, but where nobody else needs it.
    """
    began = begin(routes)
    width, size = panel.shape[1], routes.handles[2]
    whole, flat = columns == width, panel.reshape(-1)
    communicator, datatype = routes.handles[0], routes.handles[1]
    out, into, requests = routes.out[tile], routes.into[tile], routes.requests[tile]
    opened, at, words = 0, 0, 0
    if back:
        for m in range(routes.sends_at[layer], routes.sends_at[layer + 1]):
            count = (routes.sends[m, 2] - routes.sends[m, 1]) * columns
            post_receive(into[at : at + count], routes.sends[m, 0], communicator, datatype, requests[opened * size :])
            at += count
            opened += 1
        at = 0
        for m in range(routes.receives_at[layer], routes.receives_at[layer + 1]):
            rank, first, last = routes.receives[m]
            count = (last - first) * columns
            message = flat[first * width : last * width]
            if not whole:
                message = out[at : at + count]
                _pack_range(panel, first, message, columns)
                at += count
            post_send(message, rank, communicator, datatype, requests[opened * size :])
            words += count
            opened += 1
        routes.tally[1, layer, MESSAGES] += routes.receives_at[layer + 1] - routes.receives_at[layer]
    else:
        for m in range(routes.receives_at[layer], routes.receives_at[layer + 1]):
            rank, first, last = routes.receives[m]
            count = (last - first) * columns
            target = flat[first * width : last * width]
            if not whole:
                target = into[at : at + count]
                at += count
            post_receive(target, rank, communicator, datatype, requests[opened * size :])
            opened += 1
        at = 0
        for m in range(routes.sends_at[layer], routes.sends_at[layer + 1]):
            rank, first, last = routes.sends[m]
            count = (last - first) * columns
            message = out[at : at + count]
            pack(panel, routes.rows[first:last], message.reshape(last - first, columns))
            post_send(message, rank, communicator, datatype, requests[opened * size :])
            at += count
            words += count
            opened += 1
        routes.tally[0, layer, MESSAGES] += routes.sends_at[layer + 1] - routes.sends_at[layer]
    routes.open[tile] = opened
    routes.tally[back, layer, WORDS] += words
    note(routes, layer, back, tile, PACKING, began)


@compiled
def _pack_range(panel, first, message, columns):  # type: ignore[no-untyped-def]
    for i in range(message.size // columns):
        source, target = panel[first + i], message[i * columns : (i + 1) * columns]
        for s in range(columns):
            target[s] = source[s]


@compiled
def arrive(routes, layer, tile, panel, columns, back):  # type: ignore[no-untyped-def]
    """Wait for what departed for a tile, and complete its panel, or add up what came."""
    began = begin(routes)
    wait_all(routes.open[tile], routes.requests[tile], routes.statuses[tile])
    routes.open[tile] = 0
    began = note(routes, layer, back, tile, WAITING, began)
    into, at = routes.into[tile], 0
    if back:
        for m in range(routes.sends_at[layer], routes.sends_at[layer + 1]):
            rows = routes.rows[routes.sends[m, 1] : routes.sends[m, 2]]
            count = rows.size * columns
            add_up(into[at : at + count].reshape(rows.size, columns), panel, rows)
            at += count
    elif columns < panel.shape[1]:
        for m in range(routes.receives_at[layer], routes.receives_at[layer + 1]):
            first, last = routes.receives[m, 1], routes.receives[m, 2]
            count = (last - first) * columns
            unpack(into[at : at + count].reshape(last - first, columns), panel, first)
            at += count
    note(routes, layer, back, tile, PACKING, began)
