"""A stream of bytes from one writer to one reader through memory that both see: a ring, and how much went in and came out.

    place:   written | read | closed | ..... ring .....        counters are on cache lines of their own

Neither takes a lock: the writer alone moves `written`, the reader alone moves `read`, in order with what they copy.
"""

from __future__ import annotations

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from dasksdnn.compiling import Call, compiled
from dasksdnn.kernels.team import add, give_way, now
from dasksdnn.network import Array

#: Bytes before the ring: three counters, a line each, and one line for whoever made the memory.
HEAD = 256
_WRITTEN, _READ, _CLOSED = 0, 8, 16


@intrinsic
def _copy(context, source, at, target, to, count):  # type: ignore[no-untyped-def]
    """Copy bytes as the C library does: a loop over bytes is not made into that where their places are computed."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        held, first, given, second, nbytes = arguments
        places = [make_array(kind)(context, builder, value).data for kind, value in ((source, held), (target, given))]
        start, end = (builder.gep(place, [by]) for place, by in zip(places, (first, second), strict=True))
        cgutils.raw_memcpy(builder, end, start, nbytes, 1)
        return context.get_dummy_value()

    return types.void(source, types.int64, target, types.int64, types.int64), generate


@compiled
def write(place, values, start):  # type: ignore[no-untyped-def]
    """Copy as much of `values` (uint8) from `start` on as there is room for; returns how many bytes that was."""
    counters, ring = place[:HEAD].view(np.int64), place[HEAD:]
    written = now(counters[_WRITTEN:])
    room = ring.size - (written - now(counters[_READ:]))
    count = min(room, values.size - start)
    at = written % ring.size
    first = min(count, ring.size - at)
    _copy(values, start, ring, at, first)
    _copy(values, start + first, ring, 0, count - first)
    add(counters[_WRITTEN:], count)
    return count


@compiled
def read(place, values, start):  # type: ignore[no-untyped-def]
    """Copy as much as is there into `values` (uint8) from `start` on; returns how many bytes that was."""
    counters, ring = place[:HEAD].view(np.int64), place[HEAD:]
    taken = now(counters[_READ:])
    count = min(now(counters[_WRITTEN:]) - taken, values.size - start)
    at = taken % ring.size
    first = min(count, ring.size - at)
    _copy(ring, at, values, start, first)
    _copy(ring, 0, values, start + first, count - first)
    add(counters[_READ:], count)
    return count


@compiled
def linger(looks):  # type: ignore[no-untyped-def]
    """Let other threads and processes run, so many times."""
    for _ in range(looks):
        give_way()


@compiled
def close(place):  # type: ignore[no-untyped-def]
    """Say that nothing more will come, or be taken."""
    add(place[:HEAD].view(np.int64)[_CLOSED:], 1)


@compiled
def holds(place):  # type: ignore[no-untyped-def]
    """Bytes that are there to be read."""
    counters = place[:HEAD].view(np.int64)
    return now(counters[_WRITTEN:]) - now(counters[_READ:])


@compiled
def closed(place):  # type: ignore[no-untyped-def]
    """Whether either side has closed."""
    return now(place[:HEAD].view(np.int64)[_CLOSED:]) > 0


def warm_up_calls() -> list[Call]:
    """List calls (see `compiling.warm_up`) that need all kernels here."""
    place: Array = np.zeros(HEAD + 64, np.uint8)
    values: Array = np.zeros(8, np.uint8)
    return [
        lambda: write(place, values, 0),
        lambda: read(place, values, 0),
        lambda: linger(1),
        lambda: holds(place),
        lambda: closed(place),
        lambda: close(np.zeros(HEAD + 64, np.uint8)),
    ]
