"""Samples split: each worker takes its batches through all layers with the local engine; workers exchange nothing.

    worker 0   batch 0 --read--> all layers --> its own chunks of the output     weights: kept from batch to batch
    worker 1   batch 1 --read--> all layers --> its own chunks of the output     where they fit, else streamed

A batch is one task. A worker runs one at a time with all its threads, so that weights and panels are held once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Lock
from time import monotonic
from typing import Any
from uuid import uuid4

import numpy as np

from dasksdnn.engines import session
from dasksdnn.engines.cluster.streaming import Batch, Submitted
from dasksdnn.engines.cluster.telemetry import Counters, counting
from dasksdnn.engines.cluster.workers import Worker, budget_of, current_worker
from dasksdnn.engines.inference import plan_for, stream_kept
from dasksdnn.engines.lazy import opened
from dasksdnn.engines.passage import Passage
from dasksdnn.engines.sinks import ArraySink, CategorySink, ChunkedSink
from dasksdnn.errors import ClusterError
from dasksdnn.events import ignore
from dasksdnn.network import Array
from dasksdnn.plan.schedule import Plan
from dasksdnn.sources.blocks import Dataset, Span
from dasksdnn.sources.datasets import as_dataset

#: Batches in flight for each worker: one that runs, and one whose input is there when it ends.
DEPTH = 2
#: Batches in flight, at least, where those that wait hold nothing: a cluster that adapts sees that there is work.
LEAST_IN_FLIGHT = 8
#: Seconds to wait for workers to end what they compute for a run that has failed.
PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Job:
    """What all batches of a run share.

    Attributes
    ----------
    run : str
        Its name.
    path, digest : str
        Of the store.
    memory : int or None
        Budget of each worker.
    threads : int or None
    out : zarr.Array or None
        Where outputs are written by whoever computes them.
    rows : bool
        Outputs go to the caller.
    room : int
        Bytes of a batch's samples, where they are sent, and of outputs that wait to be fetched.
    watched : bool
        Somebody watches: see `telemetry`.
    """

    run: str
    path: str
    digest: str
    memory: int | None = None
    threads: int | None = None
    out: Any = None
    rows: bool = False
    room: int = 0
    watched: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """What a batch gave: samples with a non-zero output (numbered as in the dataset), multiply-adds, the worker's peak in
    bytes, and its outputs where the caller wants them.
    """

    categories: Array
    computed_edges: int
    peak_rss: int
    rows: Array | None


class Region:
    """Samples `start` to `stop` of a Zarr array of outputs, as an array of their own; whole chunks but for the last."""

    def __init__(self, array: Any, start: int, stop: int) -> None:
        self._array, self._start = array, start
        self.shape, self.dtype = (stop - start, int(array.shape[1])), array.dtype
        self.chunks, self.shards = array.chunks, getattr(array, "shards", None)

    def __setitem__(self, rows: slice, values: Array) -> None:
        self._array[self._start + rows.start : self._start + rows.stop] = values


class _Outputs:
    """Makes the sink of a batch when its turn comes, and gives it up afterwards."""

    def __init__(self, job: Job, batch: Batch, shape: tuple[int, int], dtype: Any) -> None:
        self._job, self._batch, self._shape, self._dtype = job, batch, shape, dtype
        self.rows: Array | None = None
        self._chunked: ChunkedSink | None = None

    def sink(self) -> Any:
        if self._job.rows:
            self.rows = np.zeros(self._shape, self._dtype)
            return ArraySink(self.rows)
        region = Region(self._job.out, self._batch.start, self._batch.stop)
        self._chunked = ChunkedSink(region, scratch_here())
        return self._chunked

    def __enter__(self) -> _Outputs:
        return self

    def __exit__(self, *_: object) -> None:
        if self._chunked is not None:
            self._chunked.close()


def scratch_here() -> Path:
    """The folder of this worker for temporary files."""
    from distributed import get_worker

    return Path(get_worker().local_directory)


def budget_here(memory: int | None) -> int | None:
    """What this worker may hold: it may have joined later, with less memory than the others."""
    worker = current_worker()
    return memory if worker is None else budget_of(worker, memory)


def _managed() -> int:
    """Bytes of samples and outputs that this worker holds already: they are resident, and not to be counted twice."""
    from distributed import get_worker

    return int(get_worker().state.nbytes)


def infer_batch(job: Job, batch: Batch, source: Any) -> Done:
    """Run a batch: the task.

    Parameters
    ----------
    job : Job
    batch : Batch
    source : Dataset or array
        The whole dataset, or the batch's samples.
    """
    with running(job.run) as stop:
        store = opened(job.path, job.digest)
        dataset = span_of(source, batch)
        with _Outputs(job, batch, (batch.samples, store.widths[-1]), store.dtype) as outputs:
            result = stream_kept(
                store,
                dataset,
                outputs.sink if job.rows or job.out is not None else None,
                memory=budget_here(job.memory),
                threads=job.threads,
                room=max(0, job.room - _managed()),
                stop=stop,
                watch=partial(_watch, job) if job.watched else None,
            )
    return Done(result.categories + batch.start, result.computed_edges, result.peak_rss, outputs.rows)


def _watch(job: Job, passage: Passage, plan: Plan) -> AbstractContextManager[None]:
    """Tell of a batch's counters while it runs: a worker runs one at a time."""
    from distributed import get_worker

    none: Array = np.zeros(0, np.int64)
    worker, lanes = get_worker(), plan.settings.workers
    owner = int(worker.address.rpartition(":")[2])  # a process may have many workers
    return counting(worker, job.run, owner, lambda: Counters(passage.tally, none), budget=plan.budget, lanes=lanes)


def span_of(source: Any, batch: Batch) -> Span:
    """The samples of a batch, numbered from 0."""
    if isinstance(source, Dataset):
        return Span(source, batch.start, batch.stop)
    return Span(as_dataset(source), 0, batch.samples, batch.start)


@dataclass(frozen=True, slots=True)
class Measured:
    """What planning must know of a dataset that stays where it is: how many bytes so many samples of it take."""

    samples: int
    features: int
    block: int
    nbytes: int

    def block_bytes(self, samples: int) -> int:
        """See `Dataset`."""
        return -(-self.nbytes * min(samples, self.samples) // max(1, self.samples))


def plan_batch(job: Job, dataset: Any) -> Plan:
    """How a worker would run a batch: the task that is run before all others.

    Parameters
    ----------
    job : Job
    dataset : Dataset or Measured
        Of as many samples as a batch has.
    """
    here = session.scheduler()
    store = opened(job.path, job.digest)
    threads = job.threads if job.threads is not None else here.threads
    with _Outputs(job, Batch(0, dataset.samples), (0, store.widths[-1]), store.dtype) as outputs:
        sink = outputs.sink() if job.out is not None else CategorySink()
        return plan_for(store, dataset, sink, budget_here(job.memory), threads, ignore, job.room)


@dataclass(frozen=True, slots=True)
class Planning:
    """The strategy that asks a worker for its plan."""

    client: Any
    job: Job
    dataset: Any

    def submit(self, batch: Batch, workers: Sequence[Worker]) -> Submitted:
        """See `Strategy`."""
        key = f"sdnn-plan-{uuid4().hex}"
        return Submitted(self.client.submit(plan_batch, self.job, self.dataset, key=key, pure=False))

    def in_flight(self, workers: Sequence[Worker]) -> int:
        """See `Strategy`."""
        return 1

    def stop(self) -> None:
        """It writes nothing: there is nothing to wait for."""

    def close(self) -> None:
        """It holds nothing."""


class Source:
    """Where batches come from: a dataset that workers read, one that is sent batch by batch, or a dask.array whose graph is.

    Parameters
    ----------
    dataset : Dataset
    shared : Dataset or None
        The same, where every worker can read it.
    array : dask.array or None
        The same, where it is one.
    """

    def __init__(self, dataset: Dataset, shared: Dataset | None, array: Any = None) -> None:
        self.dataset, self.shared, self.array = dataset, shared, array

    @property
    def waits(self) -> bool:
        """Whether batches that wait on a worker hold their samples."""
        return self.shared is None

    @property
    def sent(self) -> bool:
        """Whether samples are read here, and sent."""
        return self.shared is None and self.array is None

    def rows(self, client: Any, batch: Batch) -> Any:
        """The samples of a batch on some worker, as a future."""
        if self.array is None:
            return client.scatter(self.dataset.read(batch.start, batch.stop), hash=False)
        return self._submit_graph(client, _same, batch, f"sdnn-rows-{uuid4().hex}").future

    def submit(self, client: Any, task: Any, batch: Batch) -> Submitted:
        """Submit `task(batch, source)`."""
        key = f"sdnn-infer-{uuid4().hex}"
        if self.array is not None:
            return self._submit_graph(client, partial(task, batch), batch, key)
        held: tuple[Any, ...] = ()
        source: Any = self.shared
        if source is None:
            # Not by content: equal batches are batches all the same.
            source = client.scatter(self.dataset.read(batch.start, batch.stop), hash=False)
            held = (source,)
        return Submitted(client.submit(task, batch, source, key=key, pure=False), held=held)

    def _submit_graph(self, client: Any, task: Any, batch: Batch, key: str) -> Submitted:
        import dask

        rows = self.array[batch.start : batch.stop]
        delayed = dask.delayed(task, name=f"sdnn-task-{key}", pure=False)(rows, dask_key_name=key)
        # The samples may be in the graph themselves: they are sent a batch at a time, which is what the warning asks for.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TiB"}):
            return Submitted(client.compute(delayed))


def _same(rows: Any) -> Any:
    return rows


class Samples:
    """The strategy: see the module. It is a `streaming.Strategy`."""

    def __init__(self, client: Any, job: Job, source: Source) -> None:
        self._client, self._job, self._source = client, job, source

    def submit(self, batch: Batch, workers: Sequence[Worker]) -> Submitted:
        """See `Strategy`."""
        return self._source.submit(self._client, partial(infer_batch, self._job), batch)

    def in_flight(self, workers: Sequence[Worker]) -> int:
        """See `Strategy`."""
        depth = DEPTH * len(workers)
        return depth if self._source.waits or self._job.rows else max(depth, LEAST_IN_FLIGHT)

    def stop(self) -> None:
        """See `Strategy`."""
        self._client.run(stop_run, self._job.run, on_error="ignore")

    def close(self) -> None:
        """Sessions are kept for the next run, a while."""


_lock = Lock()
_active: Counter[str] = Counter()
_stops: dict[str, Event] = {}
_stopped: set[str] = set()


@contextmanager
def running(run: str) -> Iterator[Event]:
    """Note that a task of a run is at work here, until the block ends.

    Raises
    ------
    ClusterError
        The run was stopped.
    """
    with _lock:
        if run in _stopped:
            raise ClusterError("this run was stopped")
        stop = _stops.setdefault(run, Event())
        _active[run] += 1
    try:
        yield stop
    finally:
        with _lock:
            _active[run] -= 1
            if not _active[run]:
                del _active[run], _stops[run]


async def stop_run(run: str) -> None:
    """End what this worker computes for a run, and wait until it has: then nothing writes to its output any more."""
    with _lock:
        _stopped.add(run)
        if run in _stops:
            _stops[run].set()
    end = monotonic() + PATIENCE
    while run in _active and monotonic() < end:
        await asyncio.sleep(0.01)
