"""Long-lived ranks of parts split, on Dask workers: each holds its parts from batch to batch, and exchanges with the others.

    task of owner 0   batch 0, its parts ==> outputs of chunks 0, 2, ...      [ weights, panels, peers: kept, a while ]
          ^ v  rings of memory, or comms
    task of owner 1   batch 0, its parts ==> outputs of chunks 1, 3, ...      [ weights, panels, peers ]

A crew is the owners of one set of workers. Where one of them fails, all forget it, and the next batch has a new crew.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from threading import Lock, Timer
from time import monotonic
from typing import Any

import numpy as np

from dasksdnn import host
from dasksdnn.compiling import warm_up
from dasksdnn.engines import session
from dasksdnn.engines.cluster import mailbox
from dasksdnn.engines.cluster.peers import Peers, join
from dasksdnn.engines.cluster.samples import Done, Job, Region, budget_here, running, scratch_here, span_of
from dasksdnn.engines.cluster.streaming import Batch
from dasksdnn.engines.cluster.telemetry import Counters, counting
from dasksdnn.engines.exchange import Grid
from dasksdnn.engines.lazy import opened
from dasksdnn.engines.member import Member, Task, room
from dasksdnn.engines.session import IDLE
from dasksdnn.engines.sinks import CategorySink, ChunkedSink, Tee, rows_of, written_together
from dasksdnn.errors import DaskSDNNError, PeerLostError
from dasksdnn.kernels import ring
from dasksdnn.network import Array
from dasksdnn.store.reader import Store


@dataclass(frozen=True, slots=True)
class Crew:
    """Owners that work together.

    Attributes
    ----------
    name : str
        Another for each set of workers, and after each loss.
    addresses : tuple of str
        Each owner's worker.
    to : tuple of int
        The owner of each part.
    batch : int
        Samples of a batch, at most.
    shared : bool
        Owners of one host use shared memory.
    """

    name: str
    addresses: tuple[str, ...]
    to: tuple[int, ...]
    batch: int
    shared: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """What an owner gave of a batch.

    Attributes
    ----------
    categories : int array
        Samples with a non-zero output, numbered as in the dataset, of those that it passes on.
    edges : int
        Multiply-adds.
    peak_rss : int
        Of its worker, in bytes.
    known, rows : arrays of shape (passed on,), (passed on, outputs)
        Samples, numbered in the batch, and their outputs; empty where the caller does not want them.
    """

    categories: Array
    edges: int
    peak_rss: int
    known: Array
    rows: Array


class _Rows:
    """Outputs of the samples that this owner passes on, kept to be given to the caller."""

    def __init__(self, samples: int, outputs: int, dtype: Any) -> None:
        self.values: Array = np.zeros((samples, outputs), dtype)
        self.known: Array = np.zeros(samples, np.bool_)

    def put(self, samples: Array, columns: Array, panel: Array, order: Array) -> None:
        """See `Sink`."""
        self.values[samples] = rows_of(columns, panel, order)
        self.known[samples] = True

    def constant(self, samples: Array, output: Array | None) -> None:
        """See `Sink`."""
        if output is not None:
            self.values[samples] = output
        self.known[samples] = True


class _Batch:
    """A sink for one batch: its categories as in the dataset, its outputs numbered from its first sample."""

    def __init__(self, job: Job, batch: Batch, store: Store) -> None:
        self._first, self._found = batch.start, CategorySink()
        self._rows = _Rows(batch.samples if job.rows else 0, store.widths[-1], store.dtype)
        self._chunks = None
        if job.out is not None:
            self._chunks = ChunkedSink(Region(job.out, batch.start, batch.stop), scratch_here())
        self._inner: Any = Tee(*([self._rows] if job.rows else []), *([self._chunks] if self._chunks else []))

    def put(self, samples: Array, columns: Array, panel: Array, order: Array) -> None:
        """See `Sink`."""
        self._found.put(samples, columns, panel, order)
        self._inner.put(samples - self._first, columns, panel, order)

    def constant(self, samples: Array, output: Array | None) -> None:
        """See `Sink`."""
        self._found.constant(samples, output)
        self._inner.constant(samples - self._first, output)

    def piece(self, edges: int) -> Piece:
        """What there is behind the run."""
        known = np.flatnonzero(self._rows.known)
        return Piece(self._found.categories, edges, host.peak_resident(), known, self._rows.values[known])

    def close(self) -> None:
        """Give up scratch."""
        if self._chunks is not None:
            self._chunks.close()


class _Holding:
    """What this process holds for a crew."""

    def __init__(self, peers: Peers, member: Member) -> None:
        self.peers, self.member, self.used = peers, member, monotonic()

    def close(self) -> None:
        self.member.close()
        self.peers.close()


_held: dict[tuple[str, int], _Holding] = {}
_lock = Lock()
_timer: Timer | None = None


def work(job: Job, crew: Crew, owner: int, batch: Batch, source: Any) -> Piece | DaskSDNNError:
    """Take a batch through an owner's parts, in step with the other owners: the task.

    Gives an error that was to be expected, too: where one owner fails, the others lose it, and `gathered` says who was first.

    Parameters
    ----------
    job : Job
    crew : Crew
    owner : int
    batch : Batch
    source : Dataset or array
        The whole dataset, or the batch's samples.
    """
    try:
        return _work(job, crew, owner, batch, source)
    except DaskSDNNError as error:
        return error


def _work(job: Job, crew: Crew, owner: int, batch: Batch, source: Any) -> Piece:
    with running(job.run) as stop:
        store, dataset = opened(job.path, job.digest), span_of(source, batch)
        holding = _take(job, crew, owner, dataset)
        try:
            with closing(_Batch(job, batch, store)) as sink, _watched(job, owner, holding.member):
                report = holding.member.run(dataset, batch.start, sink, stop=stop)
                piece = sink.piece(report.edges)
        except BaseException:
            holding.close()  # the others fail where they wait for this one
            raise
        _keep(crew, owner, holding)
    return piece


def _watched(job: Job, owner: int, member: Member) -> AbstractContextManager[None]:
    """Tell of an owner's counters while it runs, where somebody watches."""
    from distributed import get_worker

    passage = member.passage
    if not job.watched or passage is None:
        return nullcontext()
    counters = partial(Counters, passage.exchange.tally, passage.exchange.sent)
    return counting(get_worker(), job.run, owner, counters, budget=member.plan.budget)


def _take(job: Job, crew: Crew, owner: int, dataset: Any) -> _Holding:
    """What is held for a crew, by now by nobody else; of other crews nothing is kept."""
    with _lock:
        found = _held.pop((crew.name, owner), None)
        # Owners give up what they hold each at a time of its own: where one has done so, all meet anew.
        if found is not None and found.peers.whole:
            return found
        given = [_held.pop(key) for key in list(_held)]
    for holding in given if found is None else [found, *given]:
        holding.close()
    return _join(job, crew, owner, dataset)


def _join(job: Job, crew: Crew, owner: int, dataset: Any) -> _Holding:
    warm_up(ring.warm_up_calls())
    store, here = opened(job.path, job.digest), session.scheduler()
    peers = join(crew.name, owner, crew.addresses, crew.shared)
    try:
        limits = room(budget_here(job.memory), job.threads or here.threads or host.threads())
        unit = 1 if job.out is None else int(written_together(job.out)[0])
        member = Member(
            store, Grid(peers, len(crew.addresses)), crew.to, limits, task_for(job, dataset, crew.batch, unit)
        )
    except BaseException:
        peers.close()
        raise
    return _Holding(peers, member)


def task_for(job: Job, dataset: Any, samples: int, unit: int) -> Task:
    """What an owner is to hold itself ready for."""
    store = opened(job.path, job.digest)
    row = store.widths[-1] * store.dtype.itemsize

    def output_bytes(settings: Any) -> int:
        held = 2 * samples * row if job.rows else 0
        if job.out is not None:
            held += int(ChunkedSink(Region(job.out, 0, samples)).nbytes(settings))
        return held + job.room

    return Task(dataset, samples, store.widths[-1], unit, job.rows or job.out is not None, output_bytes)


def _keep(crew: Crew, owner: int, holding: _Holding) -> None:
    """Keep it for the next batch; a minute after the last it is given back."""
    with _lock:
        holding.used = monotonic()
        _held[crew.name, owner] = holding
        _watch()


def _watch() -> None:
    global _timer
    if _timer is None:
        _timer = Timer(IDLE, _look)
        _timer.daemon = True
        _timer.start()


def _look() -> None:
    global _timer
    with _lock:
        _timer = None
        idle = [key for key, held in _held.items() if monotonic() - held.used > IDLE]
        given = [_held.pop(key) for key in idle]
        if _held:
            _watch()
    for held in given:
        held.close()


def abort(names: tuple[str, ...]) -> None:
    """Let owners of crews fail where they wait for others, and give up what is held for them."""
    for name in names:
        mailbox.abort(name)
    with _lock:
        given = [_held.pop(key) for key in list(_held) if key[0] in names]
    for held in given:
        held.close()


def attend(dask_worker: Any) -> None:
    """Let a worker take what owners elsewhere send, before any of its own tasks runs."""
    mailbox.attend(dask_worker)


def gathered(*given: Piece | DaskSDNNError) -> Done:
    """What all owners of a batch gave.

    Raises
    ------
    DaskSDNNError
        One failed. A PeerLostError, where nothing but that is known.
    """
    errors = [g for g in given if isinstance(g, DaskSDNNError)]
    for error in sorted(errors, key=lambda e: isinstance(e, PeerLostError)):
        raise error
    pieces = [g for g in given if isinstance(g, Piece)]
    categories = np.concatenate([p.categories for p in pieces])
    rows = None
    if any(p.known.size for p in pieces):
        rows = np.empty((sum(p.known.size for p in pieces), pieces[0].rows.shape[1]), pieces[0].rows.dtype)
        for piece in pieces:
            rows[piece.known] = piece.rows
    return Done(categories, sum(p.edges for p in pieces), max(p.peak_rss for p in pieces), rows)
