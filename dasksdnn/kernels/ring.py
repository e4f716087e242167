"""Messages from one writer to one reader through memory that both see: a ring, and how much went in and came out.

    place:   written | read | closed | ..... ring .....        counters are on cache lines of their own

Neither takes a lock: the writer alone moves `written`, the reader alone moves `read`, in order with what they copy.
Before each message stands its length: a reader that expects another would take what follows for something else.
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
#: Bytes of a message's length; who begins a message starts at minus so many.
LENGTH = 8
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
    """Copy as much of `values` (uint8) from `start` on as there is room for; returns how many bytes that was.

    From `-LENGTH` on, the length goes first.
    """
    counters, ring = place[:HEAD].view(np.int64), place[HEAD:]
    written, at = now(counters[_WRITTEN:]), start
    room = ring.size - (written - now(counters[_READ:]))
    if at < 0:
        if room < LENGTH:
            return 0
        length = np.full(1, values.size, np.int64)
        _put(length.view(np.uint8), 0, ring, written, LENGTH)
        at = 0
    count = min(room - (at - start), values.size - at)
    _put(values, at, ring, written + (at - start), count)
    add(counters[_WRITTEN:], at - start + count)
    return at - start + count


@compiled
def read(place, values, start):  # type: ignore[no-untyped-def]
    """Copy as much as is there into `values` (uint8) from `start` on; returns how many bytes that was.

    From `-LENGTH` on, the length comes first; where it is another than that of `values`, nothing is taken, and -1 minus
    the length is returned.
    """
    counters, ring = place[:HEAD].view(np.int64), place[HEAD:]
    taken, at = now(counters[_READ:]), start
    there = now(counters[_WRITTEN:]) - taken
    if at < 0:
        if there < LENGTH:
            return 0
        length = np.empty(1, np.int64)
        _take(ring, taken, length.view(np.uint8), 0, LENGTH)
        if length[0] != values.size:
            return -1 - length[0]
        at = 0
    count = min(there - (at - start), values.size - at)
    _take(ring, taken + (at - start), values, at, count)
    add(counters[_READ:], at - start + count)
    return at - start + count


@compiled
def _put(values, start, ring, position, count):  # type: ignore[no-untyped-def]
    at = position % ring.size
    first = min(count, ring.size - at)
    _copy(values, start, ring, at, first)
    _copy(values, start + first, ring, 0, count - first)


@compiled
def _take(ring, position, values, start, count):  # type: ignore[no-untyped-def]
    at = position % ring.size
    first = min(count, ring.size - at)
    _copy(ring, at, values, start, first)
    _copy(ring, 0, values, start + first, count - first)


@compiled
def count(counters, which, amount):  # type: ignore[no-untyped-def]
    """Add to one of some int64 that other processes see, in one step; returns what it is then."""
    return add(counters[which:], amount) + amount


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
    constant: Array = np.frombuffer(bytes(8), np.uint8)  # another type to Numba, and what is pickled comes as one
    return [
        lambda: write(place, values, -LENGTH),
        lambda: read(place, values, -LENGTH),
        lambda: write(place, constant, -LENGTH),
        lambda: linger(1),
        lambda: count(np.zeros(8, np.int64), 0, 1),
        lambda: holds(place),
        lambda: closed(place),
        lambda: close(np.zeros(HEAD + 64, np.uint8)),
    ]
