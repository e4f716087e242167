"""The bounded driver: a dataset goes through a cluster a few batches at a time, whatever becomes of the workers.

    batches --submit--> [ in flight: a few a worker ] --collect, once each-->  categories, counters, rows
                 ^                 |
                 +--- lost --------+        its worker died, or its tasks were cancelled

The scheduler knows of the batches in flight and of no others, so its graph does not grow with the dataset. What `collect`
gets is small; large outputs are written where they are made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Protocol

from dasksdnn.engines.cluster import workers as known
from dasksdnn.engines.cluster.workers import Worker, wait_for_workers, workers_of
from dasksdnn.errors import ClusterError, PeerLostError

#: Seconds between looks at which workers there are.
LOOK = 0.5
#: Times that a batch is submitted, at most.
ATTEMPTS = 5
#: Seconds to wait for a result that is said to be there: its worker may have gone since.
FETCH = 20.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples `start` to `stop` of a dataset."""

    start: int
    stop: int

    @property
    def samples(self) -> int:
        """How many they are."""
        return self.stop - self.start

    def __str__(self) -> str:
        return f"samples {self.start:,} to {self.stop - 1:,}"


def cut(samples: int, size: int) -> Iterator[Batch]:
    """The batches of a dataset."""
    for start in range(0, samples, size):
        yield Batch(start, min(start + size, samples))


@dataclass(frozen=True, slots=True)
class Submitted:
    """A batch on its way.

    Attributes
    ----------
    future : distributed.Future
        Of its result; when it is there, the batch is done.
    needs : frozenset of str
        Addresses of workers without which it cannot end; where one goes, the batch is submitted again. Empty where Dask may
        move its tasks.
    held : tuple
        What must live until then, such as futures of its input.
    """

    future: Any
    needs: frozenset[str] = frozenset()
    held: tuple[Any, ...] = ()


class Strategy(Protocol):
    """How a batch is run on a cluster."""

    def submit(self, batch: Batch, workers: Sequence[Worker]) -> Submitted:
        """Start a batch on the workers that there are, at least one."""

    def in_flight(self, workers: Sequence[Worker]) -> int:
        """Batches that may be under way at a time."""

    def stop(self) -> None:
        """End what runs on the workers, after its futures were cancelled; returns when nothing runs any more."""

    def close(self) -> None:
        """Let the workers give back what they hold for the run."""


@dataclass(slots=True)
class _Flight:
    batch: Batch
    attempts: int = 0
    submitted: Submitted | None = None
    faults: list[str] = field(default_factory=list)


def run_batches(
    client: Any,
    batches: Iterator[Batch],
    strategy: Strategy,
    collect: Callable[[Batch, Any], None],
    *,
    patience: float | None = None,
) -> None:
    """Run all batches, each to one result.

    Parameters
    ----------
    client : distributed.Client
    batches : iterator of Batch
        Drawn from as batches end.
    strategy : Strategy
    collect : callable
        Given a batch and its result, once for every batch, in the order in which they end, by the calling thread.
    patience : float, optional
        Seconds to wait for a worker where there is none; by default two minutes.

    Raises
    ------
    ClusterError
        No worker comes, or a batch loses its worker time after time.
    Exception
        What a batch raised on its worker.
    """
    from distributed.comm import CommClosedError

    driver = _Driver(client, strategy, known.PATIENCE if patience is None else patience)
    try:
        driver.run(batches, collect)
    except CommClosedError as error:
        driver.abandon()
        raise ClusterError(
            f"the connection to the scheduler was lost ({error}): make a new client, and run again"
        ) from error
    except BaseException:
        driver.abandon()
        raise


class _Driver:
    def __init__(self, client: Any, strategy: Strategy, patience: float) -> None:
        self._client, self._strategy, self._patience = client, strategy, patience
        self._flying: list[_Flight] = []
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._workers: tuple[Worker, ...] = ()
        self._looked = 0.0
        self._address = client.scheduler.address if client.scheduler else "?"

    def run(self, batches: Iterator[Batch], collect: Callable[[Batch, Any], None]) -> None:
        more = True
        while True:
            self._look()
            while more and len(self._flying) < max(1, self._strategy.in_flight(self._workers)):
                batch = next(batches, None)
                if batch is None:
                    more = False
                else:
                    self._flying.append(_Flight(batch))
                    self._submit(self._flying[-1])
            if not self._flying:
                return
            self._wait()
            for flight in list(self._flying):
                self._settle(flight, collect)

    def abandon(self) -> None:
        """Cancel what is in flight, and wait until no worker computes for it."""
        futures = [flight.submitted.future for flight in self._flying if flight.submitted]
        self._flying.clear()
        with suppress(OSError):  # the scheduler may be gone, and its workers with it
            if self._client.status == "running":
                self._client.cancel(futures, force=True)
                self._strategy.stop()

    def _look(self) -> None:
        """Learn which workers there are, now and then; wait where there is none."""
        if self._workers and monotonic() - self._looked < LOOK:
            return
        if self._client.status != "running":
            raise ClusterError(f"the scheduler at {self._address} is gone: start one, make a new client, and run again")
        self._workers = workers_of(self._client) or wait_for_workers(
            self._client, patience=self._patience, tell=logging.getLogger("dasksdnn").warning
        )
        self._looked = monotonic()

    def _submit(self, flight: _Flight) -> None:
        from distributed.comm import CommClosedError

        while flight.submitted is None:
            flight.attempts += 1
            if flight.attempts > ATTEMPTS:
                raise ClusterError(
                    f"{flight.batch} were lost {ATTEMPTS} times with their workers ({flight.faults[-1]}): see the workers' "
                    f"logs; where they die of memory, give them more of it, or a smaller budget (memory=)"
                )
            try:
                flight.submitted = self._strategy.submit(flight.batch, self._workers)
            except (CommClosedError, TimeoutError) as error:  # a worker went while samples were sent to it
                flight.faults.append(str(error) or type(error).__name__)
                self._look_again()
        flight.submitted.future.add_done_callback(lambda _: self._ended.put(None))

    def _look_again(self) -> None:
        """Look at once: a worker seems to have gone."""
        self._looked, self._workers = 0.0, ()
        self._look()

    def _wait(self) -> None:
        """Sleep until a future has ended, or it is time to look around."""
        try:
            self._ended.get(timeout=LOOK)
            while True:
                self._ended.get_nowait()
        except Empty:
            pass

    def _settle(self, flight: _Flight, collect: Callable[[Batch, Any], None]) -> None:
        """Collect a batch that is done, and submit one that is lost again."""
        from distributed import CancelledError, TimeoutError
        from distributed.comm import CommClosedError

        assert flight.submitted is not None
        future, status = flight.submitted.future, flight.submitted.future.status
        if status == "finished":
            try:
                result = future.result(timeout=FETCH)
            except (TimeoutError, CancelledError, CommClosedError):
                self._again(flight, "its result went with a worker")
                return
            self._flying.remove(flight)
            flight.submitted = future = None  # the worker need not hold it any longer
            collect(flight.batch, result)
        elif status in ("cancelled", "lost"):
            self._again(flight, f"its tasks were {status}")
        elif status == "error":
            self._failed(flight, future.exception())
        elif gone := self._gone(flight):
            self._again(flight, f"worker {gone} has gone")

    def _gone(self, flight: _Flight) -> str | None:
        """A worker that a batch needs and that is no more, by what was seen last."""
        assert flight.submitted is not None
        missing = flight.submitted.needs - {worker.address for worker in self._workers}
        return min(missing, default=None)

    def _failed(self, flight: _Flight, error: BaseException) -> None:
        from distributed import CancelledError
        from distributed.comm import CommClosedError
        from distributed.scheduler import KilledWorker

        if isinstance(error, KilledWorker):
            raise ClusterError(
                f"{error.allowed_failures + 1} workers died, one after another, while they ran {flight.batch}: see the log of "
                f"{error.last_worker.address}; where they die of memory, give them more of it, or a smaller budget (memory=)"
            ) from error
        if isinstance(error, CancelledError | CommClosedError | PeerLostError):
            self._again(flight, str(error) or type(error).__name__)
            return
        self._look_again()
        if gone := self._gone(flight):  # whatever it says, the reason is that
            self._again(flight, f"worker {gone} has gone")
            return
        raise error

    def _again(self, flight: _Flight, fault: str) -> None:
        assert flight.submitted is not None
        flight.faults.append(fault)
        self._look_again()
        self._client.cancel([flight.submitted.future], force=True)
        flight.submitted = None
        self._submit(flight)
