"""The memory of this process over time, as the operating system counts it."""

from __future__ import annotations

from threading import Event, Thread
from time import perf_counter
from typing import Self

from dasksdnn import host


class MemoryWatch:
    """Look at the resident memory while a block runs.

    Parameters
    ----------
    interval : float
        Seconds between looks.

    Attributes
    ----------
    seconds : list of float
        Since the block began.
    resident : list of int
        Bytes held then.

    Examples
    --------
    >>> import dasksdnn as sdnn
    >>> with sdnn.plots.MemoryWatch() as watched:
    ...     values = bytearray(1 << 20)
    >>> watched.peak > 1 << 20
    True
    """

    def __init__(self, interval: float = 0.05) -> None:
        self.interval = interval
        self.seconds: list[float] = []
        self.resident: list[int] = []
        self._stop = Event()
        self._thread: Thread | None = None
        self._began = 0.0

    @property
    def peak(self) -> int:
        """The most bytes that were seen."""
        return max(self.resident, default=0)

    def __enter__(self) -> Self:
        self._began = perf_counter()
        self._stop.clear()
        self._look()
        self._thread = Thread(target=self._watch, name="dasksdnn-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(self.interval):
            self._look()

    def _look(self) -> None:
        self.seconds.append(perf_counter() - self._began)
        self.resident.append(host.resident())
