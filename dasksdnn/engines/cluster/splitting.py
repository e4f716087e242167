"""Parts split as a strategy of the driver: who owns which parts, on which workers, and how large batches are.

    batch   owner 0's task on worker A  ==slices==  owner 1's task on worker B   --pieces-->  gathered

4 parts, 2 workers: each owns two                    2 parts, 5 workers: two crews of two; one waits for a crew to need it

Every task says where it runs. A worker that goes costs the batches of its crew: they are submitted again, to a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import numpy as np

from dasksdnn import config, host
from dasksdnn.engines.cluster import members
from dasksdnn.engines.cluster.members import Crew, gathered, task_for, work
from dasksdnn.engines.cluster.samples import Job, Source, stop_run
from dasksdnn.engines.cluster.streaming import Batch, Submitted
from dasksdnn.engines.cluster.telemetry import tell_crew
from dasksdnn.engines.cluster.workers import Worker, ask, workers_of
from dasksdnn.engines.loading import sizes_of
from dasksdnn.engines.member import Room, plan_share, routes_bytes, words_held
from dasksdnn.engines.shares import grouped, share_of
from dasksdnn.errors import ClusterError, MemoryBudgetError
from dasksdnn.network import Array
from dasksdnn.plan.cluster import Cluster, PartsSplit
from dasksdnn.plan.comm import words_between
from dasksdnn.plan.memory import largest_sizes
from dasksdnn.plan.schedule import KERNEL_RATE, Plan
from dasksdnn.store.reader import Store

#: Batches for each crew, at least.
BATCHES = 4
#: Seconds of computing of a batch, at most: what is lost with a worker.
LONGEST = 10.0
#: The samples of a batch, where they pass through the network, and its outputs take no more than this part of a budget.
SENT_PART = 16
#: Crews take turns: owners that wait for each other must all have a thread. The scheduler knows this lock by its name.
LOCK = "dasksdnn-parts"
#: Seconds between looks at whether the scheduler is still there, while another run has the lock.
LOOK = 5.0


class Parts:
    """The strategy: see the module. It is a `streaming.Strategy`.

    Parameters
    ----------
    client : distributed.Client
    store : Store
    job : Job
    source : Source
    """

    def __init__(self, client: Any, store: Store, job: Job, source: Source) -> None:
        self._client, self._store, self._job, self._source = client, store, job, source
        self._owner: dict[int, tuple[int, ...]] = {}
        self._crews: dict[tuple[str, ...], Crew] = {}
        self._runs: dict[tuple[str, ...], Any] = {}  # what each crew was given last
        self._given: dict[Batch, str] = {}  # the crew's name
        self._names: list[str] = []
        self._batch = 1
        self._edges: list[int] = []
        self._words: Array = np.zeros((0, 0), np.int64)
        self._lock: Any = None

    def prediction(
        self, cluster: Cluster, worker: Plan, samples: int, unit: int, asked: int | None
    ) -> PartsSplit | None:
        """What parts split would take; None where there is nothing to split.

        Parameters
        ----------
        cluster : Cluster
        worker : Plan
            Of one worker, had it all parts.
        samples : int
        unit : int
            Samples that are written together.
        asked : int or None
            Samples of a batch, where the user chose.
        """
        owners = min(cluster.workers, self._store.nparts)
        if owners < 2:
            return None
        to, groups = self._to(owners), cluster.workers // owners
        shares = [share_of(self._store, to, owner) for owner in range(owners)]
        sizes = [sizes_of(self._store, share) for share in shares]
        edges = [s.edges for s in sizes]
        batch = asked or self._batch_size(cluster, max(edges), -(-samples // (BATCHES * groups)))
        self._batch = batch = max(unit, batch // unit * unit)
        limits = Room(cluster.budget, worker.chosen.projection.reserved, cluster.threads, host.caches())
        try:
            task = task_for(self._job, self._source.dataset, batch, unit)
            words, routing = max(map(words_held, shares)), max(map(routes_bytes, shares))
            projected = plan_share(largest_sizes(sizes), words, routing, owners, limits, task, False).projected
        except MemoryBudgetError as error:
            projected = error.smallest
        plan = self._store.comm_plan().coarsen(to)
        volume = sum(layer.volume for layer in plan.layers[1:])
        self._edges, self._words = edges, words_between(plan)
        return PartsSplit(owners, volume, owners + 1, max(edges) / max(1, sum(edges)) / groups, batch, projected)

    def _batch_size(self, cluster: Cluster, edges: int, share: int) -> int:
        """Several for each crew; none takes long, so that little is lost with a worker."""
        most = int(LONGEST * KERNEL_RATE * cluster.threads / max(1, edges))
        widths, passing = self._store.widths, 0
        if self._source.waits:
            passing += widths[0]
        if self._job.rows:
            passing += 2 * widths[-1]
        if passing:
            most = min(most, cluster.budget // SENT_PART // (passing * self._store.dtype.itemsize))
        return max(1, min(share, most))

    # -- of the driver

    def submit(self, batch: Batch, workers: Sequence[Worker]) -> Submitted:
        """See `Strategy`."""
        self._take_turn()
        if batch in self._given:  # it was lost: so was its crew
            name = self._given.pop(batch)
            self._end_crews([a for a, crew in self._crews.items() if crew.name == name])
        crew = self._crew(workers)
        rows, held = self._samples(batch)
        key = uuid4().hex
        futures = [
            self._client.submit(
                work, self._job, crew, owner, batch, rows, key=f"sdnn-parts-{key}-{owner}", workers=[address],
                allow_other_workers=False, pure=False, retries=0,
            )
            for owner, address in enumerate(crew.addresses)
        ]  # fmt: skip
        future = self._client.submit(
            gathered, *futures, key=f"sdnn-gathered-{key}", workers=[crew.addresses[0]], allow_other_workers=False
        )
        self._given[batch] = crew.name
        self._runs[crew.addresses] = future
        return Submitted(future, frozenset(crew.addresses), (*held, *futures))

    def in_flight(self, workers: Sequence[Worker]) -> int:
        """See `Strategy`."""
        return max(1, len(workers) // max(1, min(len(workers), self._store.nparts)))

    def stop(self) -> None:
        """See `Strategy`."""
        self._end_crews(list(self._crews))
        self._client.run(stop_run, self._job.run, on_error="ignore")

    def close(self) -> None:
        """See `Strategy`."""
        with suppress(OSError):
            if self._client.status == "running":
                self._end_crews(list(self._crews))
        if self._lock is not None:
            with suppress(OSError, ValueError):
                self._lock.release()
            self._lock = None

    # -- how

    def _take_turn(self) -> None:
        """Wait until no other run on this cluster splits parts."""
        from distributed import Semaphore

        if self._lock is not None:
            return
        lock = Semaphore(1, LOCK, scheduler_rpc=self._client.scheduler, loop=self._client.loop)
        while not lock.acquire(timeout=LOOK):
            if self._client.status != "running":
                raise ClusterError("the scheduler is gone: start one, make a new client, and run again")
        self._lock = lock

    def _crew(self, workers: Sequence[Worker]) -> Crew:
        """A crew that has nothing to do, of workers that are there."""
        owners = min(len(workers), self._store.nparts)
        there = {worker.address for worker in workers}
        gone = [a for a in self._crews if not there.issuperset(a) or self._has_failed(a)]
        self._end_crews(gone)
        idle = [a for a in self._crews if len(a) == owners and self._is_done(a)]
        if idle:
            return self._crews[idle[0]]
        self._end_crews([a for a in self._crews if len(a) != owners and self._is_done(a)])
        taken = {address for addresses in self._crews for address in addresses}
        free = [w for w in workers if w.address not in taken] or list(workers)
        used = free[:owners] if len(free) >= owners else list(workers)[:owners]
        addresses = tuple(worker.address for worker in used)
        ask(self._client, members.attend, workers=addresses)
        shared = bool(config.get("shared-memory"))
        crew = Crew(uuid4().hex, addresses, self._to(owners), self._batch, shared)
        self._crews[addresses] = crew
        self._names.append(crew.name)
        if self._job.watched:
            self._tell(crew)
        return crew

    def _tell(self, crew: Crew) -> None:
        """Tell what is planned; where workers have gone, of the owners that there are left."""
        if len(crew.addresses) != len(self._edges):
            shares = [share_of(self._store, crew.to, owner) for owner in range(len(crew.addresses))]
            self._edges = [sizes_of(self._store, share).edges for share in shares]
            self._words = words_between(self._store.comm_plan().coarsen(crew.to))
        tell_crew(self._client, self._job.run, crew.addresses, crew.to, self._edges, self._words)

    def _is_done(self, addresses: tuple[str, ...]) -> bool:
        run = self._runs.get(addresses)
        return run is None or run.done()

    def _has_failed(self, addresses: tuple[str, ...]) -> bool:
        """Its last batch has, which may not have been seen yet: the next one would fail with it."""
        run = self._runs.get(addresses)
        return run is not None and run.done() and run.status != "finished"

    def _end_crews(self, addresses: Sequence[tuple[str, ...]]) -> None:
        """Let owners that still wait for others of these crews fail, and give back what they hold."""
        names = tuple(self._crews.pop(a).name for a in addresses if a in self._crews)
        for a in addresses:
            self._runs.pop(a, None)
        if names:
            ask(self._client, members.abort, names, workers=[w.address for w in workers_of(self._client)])

    def _to(self, owners: int) -> tuple[int, ...]:
        if owners not in self._owner:
            self._owner[owners] = grouped(self._store, owners)
        return self._owner[owners]

    def _samples(self, batch: Batch) -> tuple[Any, tuple[Any, ...]]:
        if self._source.shared is not None:
            return self._source.shared, ()
        rows = self._source.rows(self._client, batch)
        return rows, (rows,)
