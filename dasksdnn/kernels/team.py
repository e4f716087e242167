"""Threads that share the rows of a panel: they meet after every layer, in compiled code, which costs some microseconds.

    thread 0:  rows of part 0, layer k   |meet|  layer k + 1  |meet| ...
    thread 1:  rows of part 1, layer k   |meet|  layer k + 1  |meet| ...

For panels too narrow to share the samples. Who comes early spins for some microseconds, then yields its processor.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Any, Self

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from dasksdnn.compiling import compiled
from dasksdnn.network import Array

_I32 = ir.IntType(32)

#: A count that nobody has to wait for.
DISMISSED = 1 << 62
#: Looks at the counter, before a thread that waits yields its processor.
_LOOKS = 2000


class Team:
    """A number of threads that work on one thing at a time; one of them is the caller's. Close it when done."""

    def __init__(self, members: int) -> None:
        self.members = members
        # A thread for each member: one that had to wait for a thread would keep the others waiting for it.
        self._pool = ThreadPoolExecutor(max(1, members - 1), "sdnn-team")
        self._lock = Lock()

    def run(self, work: Callable[[int, Array], Any]) -> None:
        """Call `work(member, counter)` in every thread, with the counter of `meet`; returns when all of them have ended.

        Where one fails, or cannot be started, the others no longer wait for it: what they compute is void then.
        """
        with self._lock:
            counter: Array = np.zeros(1, np.int64)
            others: list[Future[Any]] = []

            def attend(member: int) -> None:
                try:
                    work(member, counter)
                except BaseException:
                    counter[0] = DISMISSED
                    raise

            try:
                others += (self._pool.submit(attend, member) for member in range(1, self.members))
                attend(0)
            except BaseException:
                counter[0] = DISMISSED
                raise
            finally:
                wait(others)
            for other in others:
                other.result()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@compiled
def meet(counter, members):  # type: ignore[no-untyped-def]
    """Wait until all members have called this as often as the caller has. The counter only ever rises."""
    if members > 1:
        goal = min((add(counter, 1) // members + 1) * members, DISMISSED)
        looks = 0
        while now(counter) < goal:
            looks += 1
            if looks > _LOOKS:
                give_way()


@compiled
def boundary(indptr, supernodes, member, members):  # type: ignore[no-untyped-def]
    """The first supernode of a member's share of the rows, which are shared by their nonzeros (an empty row counts too)."""
    low, high = 0, supernodes.size - 1
    goal = (indptr[supernodes[high]] + supernodes[high]) * member
    while low < high:
        middle = (low + high) // 2
        if (indptr[supernodes[middle]] + supernodes[middle]) * members < goal:
            low = middle + 1
        else:
            high = middle
    return low


@intrinsic
def add(context, counter, amount):  # type: ignore[no-untyped-def]
    """Add an int64, in one step and in order with all other accesses; returns what was there before."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = make_array(counter)(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", place, arguments[1], "seq_cst")

    return types.int64(counter, types.int64), generate


@intrinsic
def now(context, counter):  # type: ignore[no-untyped-def]
    """What stands in the counter now, in order with all other accesses."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = make_array(counter)(context, builder, arguments[0]).data
        return builder.load_atomic(place, "seq_cst", 8)

    return types.int64(counter), generate


@intrinsic
def give_way(context):  # type: ignore[no-untyped-def]
    """Let another thread have the processor: there may be fewer processors than threads."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_I32, []), "sched_yield")
        builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), generate
