"""What takes part in a comparison: one library's way to do a piece of work, ready to run, or the reason why it is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from dasksdnn.network import Array

#: This project's row of a table.
OURS = "dasksdnn"

T = TypeVar("T")
R = TypeVar("R")


def nothing() -> None:
    """Get ready where nothing needs to be done."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do a piece of work, everything prepared.

    Attributes
    ----------
    name : str
        A row of the table: "PyTorch CSR".
    threads : int
    run : callable
        Does the work once: this is what is timed.
    result : callable
        Turns what `run` returned into the arrays that the reference gives, in its order; not timed.
    ready : callable
        Called before every run, not timed: sets the library's number of threads, restores what a run overwrites.
    index_bytes : int
        Bytes of an index of the stored pattern.
    """

    name: str
    threads: int
    run: Callable[[], Any]
    result: Callable[[Any], Sequence[Array]]
    ready: Callable[[], None] = nothing
    index_bytes: int = 4


@dataclass(frozen=True, slots=True)
class Missing:
    """A row of the table that could not be run, and why."""

    name: str
    threads: int
    why: str


class Crew:
    """A number of threads for what has none of its own; one thread is the caller's.

    Parameters
    ----------
    threads : int
        At least 1.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._held = ExitStack()
        self._pool = self.keep(ThreadPoolExecutor(threads - 1, "bench")) if threads > 1 else None

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Call `function` with every item, each thread with its share of them; the results are in the items' order.

        The caller takes the first share itself: to wake a thread costs some hundredths of a millisecond.
        """
        if self._pool is None:
            return [function(item) for item in items]
        items = list(items)
        results: list[R | None] = [None] * len(items)

        def share_of(thread: int) -> None:
            for i in range(thread, len(items), self.threads):
                results[i] = function(items[i])

        others = [self._pool.submit(share_of, thread) for thread in range(1, self.threads)]
        share_of(0)
        for other in others:
            other.result()
        return results  # type: ignore[return-value]

    def keep(self, resource: AbstractContextManager[T]) -> T:
        """Enter what a contender needs; it is left when the crew is dismissed."""
        return self._held.enter_context(resource)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()


def spans(total: int, width: int) -> list[slice]:
    """Cut `total` samples into runs of at most `width`."""
    return [slice(start, min(start + width, total)) for start in range(0, total, width)]


def share(total: int, threads: int) -> int:
    """The samples of one thread, where all have about as many."""
    return -(-total // threads)
