"""Inference on a Dask cluster: what `infer` and `plan` do where they are given a client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import uuid4

import numpy as np

from dasksdnn import config
from dasksdnn.atomic import replacing
from dasksdnn.engines.cluster.samples import Job, Measured, Planning, Samples, Source
from dasksdnn.engines.cluster.splitting import Parts
from dasksdnn.engines.cluster.streaming import Batch, Strategy, cut, run_batches
from dasksdnn.engines.cluster.telemetry import facts_of, flying, is_watched
from dasksdnn.engines.cluster.workers import Worker, least_budget, wait_for_workers, workers_of
from dasksdnn.engines.inference import Result, check_threads
from dasksdnn.engines.loading import sizes_of
from dasksdnn.engines.outputs import check_out, new_output
from dasksdnn.engines.sinks import written_together
from dasksdnn.errors import InputError
from dasksdnn.events import Listener, Progress, ignore
from dasksdnn.host import parse_bytes
from dasksdnn.network import Array
from dasksdnn.plan.cluster import NO_PARTS, PARTS, SAMPLES, Cluster, ClusterPlan, batch_size, choose
from dasksdnn.plan.schedule import Plan
from dasksdnn.sources.blocks import DaskRows, Span, in_memory, on_disk, shareable
from dasksdnn.store.reader import Store

#: A batch's samples, or its outputs, take no more than this part of a worker's budget where they pass through the network.
SENT_PART = 32
#: What a user calls the strategies.
NAMES = {"samples": SAMPLES, "parts": PARTS}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asks of a run on a cluster; see `infer`."""

    memory: int | None = None
    threads: int | None = None
    strategy: str | None = None
    batch: int | None = None

    @staticmethod
    def of(memory: str | int | None, threads: int | None, strategy: str | None, batch: int | None = None) -> Asked:
        """Check what was given, and fill in what is set in `dask.config`."""
        if strategy is not None and strategy not in NAMES:
            raise InputError(f"strategy is {strategy!r}: choose 'samples' or 'parts', or leave the choice to the plan")
        threads = threads if threads is not None else config.get("threads")
        named = parse_bytes(memory if memory is not None else config.get("memory"))
        return Asked(named, None if threads is None else check_threads(threads), strategy, batch)


def stream_on(
    client: Any,
    store: Store,
    dataset: Any,
    asked: Asked,
    *,
    out: Any = None,
    overwrite: bool = False,
    listener: Listener = ignore,
) -> Result:
    """Stream a dataset through a store on a cluster.

    Parameters
    ----------
    client : distributed.Client
    store : Store
        At a path that all workers can read.
    dataset : Dataset
    asked : Asked
    out : optional
        See `infer`. A path must be one that all workers can write to.
    overwrite : bool
    listener : callable
        Told of samples finished.

    Returns
    -------
    Result
        Its `plan` is a `ClusterPlan`, its `peak_rss` the largest of the workers'.

    Raises
    ------
    InputError, StoreError, OutputExistsError, MemoryBudgetError, ClusterError
    """
    if isinstance(out, str) and out == "categories":
        out = None
    run = _Run(client, store, dataset, asked, listener)
    if isinstance(out, str | Path):
        with replacing(out, overwrite=overwrite) as temporary:
            made = new_output(temporary, run.samples, store.widths[-1], store.dtype, run.block)
            return run.go(made, None)
    if out is not None:
        check_out(store, dataset, out)
    if out is None or isinstance(out, np.ndarray):
        return run.go(None, out)
    if in_memory(out):
        raise InputError("out is a Zarr array in this process's memory, which no worker can write: give one on a disk")
    return run.go(on_disk(out), None)


def plan_on(client: Any, store: Store, dataset: Any, asked: Asked) -> ClusterPlan:
    """Choose how a cluster would run inference, without running it; see `dasksdnn.plan`."""
    return _Run(client, store, dataset, asked, ignore).plan()


def check_chunk(client: Any, store: Store, samples: int, asked: Asked) -> None:
    """Refuse a budget under which no worker could run a chunk of so many samples; where there is no worker yet, it will tell.

    Raises
    ------
    MemoryBudgetError
    """
    if workers_of(client):
        width = store.widths[0] * store.dtype.itemsize
        job = Job(uuid4().hex, str(store.path), store.digest, asked.memory, asked.threads)
        _tell(client, job, Measured(samples, store.widths[0], max(1, samples), samples * width))


def check_parts(client: Any, store: Store) -> None:
    """Refuse to split what has no parts.

    Raises
    ------
    InputError
    """
    if store.nparts < 2 or len(workers_of(client)) == 1:
        raise InputError(NO_PARTS)


def _tell(client: Any, job: Job, about: Any) -> Plan:
    """A worker's plan for a batch."""
    told: list[Plan] = []
    planning = Planning(client, job, about)
    run_batches(client, iter([Batch(0, about.samples)]), planning, lambda _, plan: told.append(plan))
    return told[0]


def cluster_of(workers: Sequence[Worker], plan: Plan) -> Cluster:
    """What a plan must know of workers, one of which has told how it would run."""
    return Cluster(len(workers), plan.settings.threads, len({worker.host for worker in workers}), plan.budget)


class _Run:
    """One run: the source of its batches, its plan, its strategy."""

    def __init__(self, client: Any, store: Store, dataset: Any, asked: Asked, listener: Listener) -> None:
        self.client, self.store, self.dataset = client, store, dataset
        self.asked, self.listener = asked, listener
        self.samples = int(dataset.samples)
        array = dataset.array if isinstance(dataset, DaskRows) else None
        self.source = Source(dataset, shareable(dataset), array)
        least_budget(workers_of(client), asked.memory)  # refuses, before anything is made, what cannot work on a worker

    @property
    def block(self) -> int:
        """Samples that are read together, where a batch that cuts through them would have them read twice."""
        return 1 if self.source.sent else int(self.dataset.block)

    def plan(self) -> ClusterPlan:
        """What would be chosen, where outputs are only reduced."""
        return self._choose(None, None)[0]

    def _choose(self, array: Any, rows: Array | None) -> tuple[ClusterPlan, Strategy, Job]:
        """Choose a strategy and the size of batches: a worker tells how it would run."""
        name, path = uuid4().hex, str(self.store.path)
        job = Job(name, path, self.store.digest, self.asked.memory, self.asked.threads, array, rows is not None)
        job = replace(job, watched=is_watched(self.client))
        workers = wait_for_workers(self.client)
        share = self._ask(job, -(-self.samples // len(workers)))
        cluster = cluster_of(workers, share)
        batch = self._batch(job, cluster, share)
        job = replace(job, room=self._room(job, batch))
        worker = self._ask(job, batch)
        forced = None if self.asked.strategy is None else NAMES[self.asked.strategy]
        seconds = share.chosen.seconds
        unit = 1 if job.out is None else int(written_together(job.out)[0])
        parts = Parts(self.client, self.store, job, self.source)
        split = parts.prediction(cluster, worker, self.samples, unit, self.asked.batch) if forced != SAMPLES else None
        chosen = choose(sizes_of(self.store), self.samples, cluster, worker, seconds, batch, split, forced)
        strategy = parts if chosen.chosen.strategy == PARTS else Samples(self.client, job, self.source)
        return chosen, strategy, job

    def go(self, array: Any, rows: Array | None) -> Result:
        """Run it."""
        chosen, strategy, job = self._choose(array, rows)
        start = perf_counter()
        gathered = _Gathered(self.samples, rows, self.listener)
        watched = job.run if job.watched else None
        facts = {"strategy": chosen.chosen.strategy, "samples": self.samples, **facts_of(self.store)}
        try:
            with flying(self.client, watched, strategy, gathered.collect, facts) as (strategy, collect):
                run_batches(self.client, cut(self.samples, chosen.batch), strategy, collect)
        finally:
            strategy.close()
        return Result(
            self.samples,
            self.store.edges,
            perf_counter() - start,
            gathered.categories,
            chosen,
            gathered.computed_edges,
            gathered.peak_rss,
        )

    def _ask(self, job: Job, samples: int) -> Plan:
        """A worker's plan for so many samples."""
        samples = max(0, min(samples, self.samples))
        shared = self.source.shared
        about: Any = Span(shared, 0, samples) if shared is not None else self._passing(samples)
        return _tell(self.client, job, about)

    def _passing(self, samples: int) -> Measured:
        """So many samples as a worker holds them, where they do not stay where they are until they are read."""
        sent = self.source.sent
        nbytes = int(self.dataset.block_bytes(samples)) if sent else samples * int(self.dataset.row_bytes)
        return Measured(samples, int(self.dataset.features), max(1, samples), nbytes)

    def _batch(self, job: Job, cluster: Cluster, share: Plan) -> int:
        unit = 1 if job.out is None else int(written_together(job.out)[0])
        if self.asked.batch is not None:
            return max(unit, self.asked.batch // unit * unit)
        passing = [self._passing(1).nbytes] if self.source.waits and self.samples else []
        if job.rows:
            passing.append(self.store.widths[-1] * self.store.dtype.itemsize)
        most = cluster.budget // SENT_PART // max(1, *passing) if passing else self.samples
        return batch_size(
            self.samples,
            cluster.workers,
            cluster.threads,
            self.store.edges,
            units=(unit, self.block),
            in_flight=1 if share.settings.resident else share.settings.batch,
            most=max(1, most),
        )

    def _room(self, job: Job, batch: int) -> int:
        """Bytes that a worker holds beside the batch that it runs: samples of the next, outputs that are being fetched."""
        room = 0
        if (
            self.source.waits
        ):  # chunks of a dask.array that are at work, those that are ready, and what they are joined into
            room += self._passing(batch).nbytes * (1 if self.source.sent else 3)
        if job.rows:
            room += 2 * batch * self.store.widths[-1] * self.store.dtype.itemsize
        return room


class _Gathered:
    """What batches gave, so far."""

    def __init__(self, samples: int, rows: Array | None, listener: Listener) -> None:
        self._samples, self._rows, self._listener = samples, rows, listener
        self._found: list[Array] = []
        self._done = 0
        self.computed_edges = self.peak_rss = 0

    def collect(self, batch: Batch, done: Any) -> None:
        self._found.append(done.categories)
        self.computed_edges += done.computed_edges
        self.peak_rss = max(self.peak_rss, done.peak_rss)
        if self._rows is not None:
            self._rows[batch.start : batch.stop] = done.rows
        self._done += batch.samples
        self._listener(Progress("infer", self._done, self._samples, "samples"))

    @property
    def categories(self) -> Array:
        return np.sort(np.concatenate([np.empty(0, np.int64), *self._found]))
