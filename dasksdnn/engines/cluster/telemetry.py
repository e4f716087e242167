r"""What a run on a cluster tells whoever watches it: how its counters grow, from its workers, and its batches, from its client.

    worker   counters of engines  --thread, twice a second-->  log_event  \
                                                                           > the scheduler's topic "dasksdnn" --> views
    client   batches on their way  --twice a second-->         log_event  /

Engines count anyway; a thread looks at their counters, so nothing is done for a layer or a panel. Where the scheduler's
metadata does not say that somebody watches, no thread is started and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock, Thread
from time import monotonic, sleep
from typing import Any

import numpy as np

from dasksdnn import host
from dasksdnn.engines.cluster.streaming import Batch, Strategy, Submitted
from dasksdnn.engines.cluster.workers import Worker
from dasksdnn.kernels.routes import COMPUTING, PACKING, WAITING
from dasksdnn.network import Array
from dasksdnn.store.encoding import bytes_read
from dasksdnn.store.reader import Store

#: The scheduler's topic of all messages.
TOPIC = "dasksdnn"
#: The entry of the scheduler's metadata that says whether somebody watches.
WATCHED = "dasksdnn-watched"
#: Seconds between a worker's messages, and a client's.
INTERVAL = 0.5
#: Layers of a message, at most: of deeper networks, neighbours are added up.
LAYERS = 64


def is_watched(client: Any) -> bool:
    """Whether somebody watches the runs of a cluster; where its scheduler has gone, what comes next says so."""
    with suppress(OSError):
        return bool(client.get_metadata([WATCHED], default=False))
    return False


def tell(teller: Any, kind: str, run: str, **facts: Any) -> None:
    """Log a message, from a client or a worker; where the scheduler has gone, nobody watches.

    Parameters
    ----------
    teller : Client or distributed.Worker
    kind : str
        "run", "crew", "batches", "counts", "learned" or "end".
    run : str
        Its name.
    **facts
        Numbers, texts, and lists of them.
    """
    with suppress(OSError):
        teller.log_event(TOPIC, {"kind": kind, "run": run, **facts})


def facts_of(store: Store) -> dict[str, Any]:
    """What a run tells of its store."""
    return {"store": str(store.path), "layers": len(store), "nparts": store.nparts, "itemsize": store.dtype.itemsize}


def tell_crew(
    client: Any, run: str, addresses: Sequence[str], to: Sequence[int], edges: Sequence[int], words: Array
) -> None:
    """Tell who owns which parts, and what they are to send each other for a sample.

    Parameters
    ----------
    client : distributed.Client
    run : str
    addresses : sequence of str
        Of each owner's worker.
    to : sequence of int
        The owner of each part.
    edges : sequence of int
        Stored weights of each owner.
    words : int array of shape (owners, owners)
        [sender, receiver], forward, of all layers but the first.
    """
    parts = [[part for part, owner in enumerate(to) if owner == o] for o in range(len(edges))]
    facts = {"addresses": list(addresses), "parts": parts, "edges": [int(e) for e in edges], "words": words.tolist()}
    tell(client, "crew", run, **facts)


# -- workers


@dataclass(frozen=True, slots=True)
class Counters:
    """What an engine has counted so far, or by how much that has grown.

    Attributes
    ----------
    tally : int64 array of shape (3, layers + 1, 5)
        See `kernels.routes`.
    sent : int64 array of shape (owners,)
        Words sent to each other owner.
    """

    tally: Array
    sent: Array

    def __sub__(self, before: Counters) -> Counters:
        return Counters(self.tally - before.tally, self.sent - before.sent)

    def __add__(self, more: Counters) -> Counters:
        return Counters(self.tally + more.tally, self.sent + more.sent)

    def copy(self) -> Counters:
        """As they are now."""
        return Counters(self.tally.copy(), self.sent.copy())

    def layers(self) -> tuple[list[int], list[list[int]]]:
        """Layers (0-based) that took any time, and the microseconds of computing, waiting and packing of each."""
        took = np.maximum(0, self.tally[:, :-1, [COMPUTING, WAITING, PACKING]].sum(axis=0) // 1000)
        group = -(-len(took) // LAYERS)
        firsts = np.arange(0, len(took), group)
        took = np.add.reduceat(took, firsts, axis=0)
        some = np.flatnonzero(took.any(axis=1))
        return firsts[some].tolist(), took[some].tolist()


class _Source:
    """One owner's counters in this process, from batch to batch: what they have grown by, and not been told yet."""

    def __init__(self, worker: Any, facts: dict[str, Any]) -> None:
        self.lock = Lock()
        self.worker, self.facts, self.told = worker, facts, monotonic()
        self._read: Callable[[], Counters] | None = None
        self._before: Counters | None = None
        self._grown: Counters | None = None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to look at, and nothing to tell."""
        return self._read is None and self._grown is None

    def begin(self, read: Callable[[], Counters]) -> None:
        with self.lock:
            self._read, self._before = read, read().copy()

    def end(self) -> None:
        with self.lock:
            self._look()
            self._read = None

    def take(self) -> Counters | None:
        """What has grown since the last time; None where the owner has nothing to do, and all was told."""
        with self.lock:
            self._look()
            grown, self._grown = self._grown, None
            return grown

    def _look(self) -> None:
        if self._read is None or self._before is None:
            return
        now = self._read().copy()
        grown, self._before = now - self._before, now
        self._grown = grown if self._grown is None else self._grown + grown


_lock = Lock()
_sources: dict[tuple[str, int], _Source] = {}
_thread: Thread | None = None
_read_before = 0


@contextmanager
def counting(
    worker: Any, run: str, owner: int, read: Callable[[], Counters], *, budget: int, lanes: int = 1
) -> Iterator[None]:
    """Tell what an owner's counters grow by, while the block runs, and a moment longer.

    Parameters
    ----------
    worker : distributed.Worker
        Whose thread this is.
    run : str
    owner : int
        Its number, or another that tells it from others in this process.
    read : callable
        Gives its counters; called from another thread, too.
    budget : int
        Bytes that the worker may hold.
    lanes : int
        Threads whose times are counted each.
    """
    global _thread, _read_before
    facts = {"owner": owner, "worker": worker.address, "name": str(worker.name), "budget": budget, "lanes": lanes}
    with _lock:
        source = _sources.setdefault((run, owner), _Source(worker, facts))
        source.begin(read)
        if _thread is None:
            _read_before = bytes_read()
            _thread = Thread(target=_tell_all, name="sdnn-tell", daemon=True)
            _thread.start()
    try:
        yield
    finally:
        source.end()


def _tell_all() -> None:
    """Tell of all sources until none has anything to tell."""
    global _thread
    while True:
        sleep(INTERVAL)
        with _lock:
            sources = list(_sources.items())
        for key, source in sources:
            grown = source.take()
            if grown is not None:
                _tell_counts(source, key[0], grown)
                continue
            with _lock:
                if source.idle:
                    _sources.pop(key, None)
        with _lock:
            if not _sources:
                _thread = None
                return


def _tell_counts(source: _Source, run: str, grown: Counters) -> None:
    global _read_before
    read, now = bytes_read(), monotonic()
    layers, took = grown.layers()
    counts = {"layers": layers, "took": took, "sent": grown.sent.tolist(), "read": read - _read_before}
    seconds, memory = now - source.told, host.resident()
    tell(source.worker, "counts", run, seconds=seconds, resident=memory, **source.facts, **counts)
    _read_before, source.told = read, now


# -- clients


class Flights:
    """Counts batches as they are submitted and collected, and tells how many are on their way."""

    def __init__(self, client: Any, run: str, samples: int) -> None:
        self._client, self._run, self._all = client, run, samples
        self._flying: set[Batch] = set()
        self._begun: set[Batch] = set()
        self._samples = self._done = 0
        self._told = 0.0

    def submitted(self, batch: Batch) -> None:
        """Count a batch; again, where it was lost."""
        if batch not in self._flying:
            self._flying.add(batch)
            self._samples += batch.samples
            self._tell()

    def collected(self, batch: Batch) -> None:
        """Count a batch that is done."""
        self._flying.discard(batch)
        self._done += batch.samples
        if self._samples == self._all:  # else another follows at once, and tells of this one too
            self._tell(last=self._done == self._all)

    def _tell(self, last: bool = False) -> None:
        now = monotonic()
        if last or now - self._told >= INTERVAL:
            self._told = now
            facts = {"flying": len(self._flying), "begun": self._samples, "done": self._done}
            tell(self._client, "batches", self._run, **facts)


@dataclass(frozen=True, slots=True)
class Watched:
    """A strategy whose batches are counted as they are submitted."""

    inner: Strategy
    flights: Flights

    def submit(self, batch: Batch, workers: Sequence[Worker]) -> Submitted:
        """See `Strategy`."""
        submitted = self.inner.submit(batch, workers)
        self.flights.submitted(batch)
        return submitted

    def in_flight(self, workers: Sequence[Worker]) -> int:
        """See `Strategy`."""
        return self.inner.in_flight(workers)

    def stop(self) -> None:
        """See `Strategy`."""
        self.inner.stop()

    def close(self) -> None:
        """See `Strategy`."""
        self.inner.close()


@contextmanager
def flying(
    client: Any, run: str | None, strategy: Strategy, collect: Callable[[Batch, Any], None], facts: Mapping[str, Any]
) -> Iterator[tuple[Strategy, Callable[[Batch, Any], None]]]:
    """Tell of a run of inference and its batches until the block ends.

    Gives a strategy and what collects, to be used in place of these.

    Parameters
    ----------
    client : distributed.Client
    run : str or None
        None: nobody watches.
    strategy, collect : see `run_batches`
    facts : mapping
        Of the run.
    """
    if run is None:
        yield strategy, collect
        return
    flights = Flights(client, run, facts["samples"])

    def collected(batch: Batch, result: Any) -> None:
        collect(batch, result)
        flights.collected(batch)

    with told(client, run, task="infer", **facts):
        yield Watched(strategy, flights), collected


@contextmanager
def told(client: Any, run: str, **facts: Any) -> Iterator[dict[str, Any]]:
    """Tell of a run when it begins and when it ends; what is put into the dictionary that is given is told with its end."""
    tell(client, "run", run, **facts)
    ended: dict[str, Any] = {"ended": "failed"}
    try:
        yield ended
        ended["ended"] = "done"
    finally:
        if client.status == "running":
            tell(client, "end", run, **ended)
