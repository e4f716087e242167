"""Parts split as a strategy of the driver: who owns which parts, on which workers, and how large batches are.

4 parts, 2 workers: each owns two                    2 parts, 5 workers: two groups of two; one waits for a group to need it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from dasksdnn import config
from dasksdnn.engines.cluster.parts import Recipe, recipe, submit
from dasksdnn.engines.cluster.samples import Done, Job, Region, Source, running, span_of, stop_run
from dasksdnn.engines.cluster.stages import Found
from dasksdnn.engines.cluster.streaming import Batch, Submitted
from dasksdnn.engines.cluster.workers import Worker
from dasksdnn.engines.loading import sizes_of
from dasksdnn.engines.shares import grouped
from dasksdnn.network import Array
from dasksdnn.plan.cluster import Cluster, PartsSplit
from dasksdnn.plan.memory import READING, SLACK, Settings, cut_slabs, slab_bytes
from dasksdnn.plan.schedule import SLAB_BYTES, Plan
from dasksdnn.store.reader import Store

#: Batches in flight for each group of owners: while slices of one are on their way, others are computed.
DEPTH = 3
#: Batches for each group, at least.
BATCHES = 4


class Parts:
    """The strategy: see the module. It is a `streaming.Strategy`.

    Parameters
    ----------
    client : distributed.Client
    store : Store
    job : Job
    source : Source
    tile : int
        Width of panels.
    """

    def __init__(self, client: Any, store: Store, job: Job, source: Source, tile: int) -> None:
        self._client, self._store, self._job, self._source, self._tile = client, store, job, source, tile
        self._plan = store.comm_plan()
        self._made: dict[tuple[int, bool], Recipe] = {}
        self._owner: dict[int, tuple[int, ...]] = {}
        self._budget = 0
        self._turn = 0

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
        self._budget = cluster.budget - worker.chosen.projection.reserved
        made = self._recipe(owners, cluster.hosts == 1)
        sample = self._sample_bytes(owners)
        weights = self._weights(made.job.settings, owners)
        room = self._budget - weights - READING - SLACK
        groups = cluster.workers // owners
        batch = asked or max(1, min(room // (DEPTH * sample), -(-samples // (BATCHES * groups))))
        whole = unit if asked else max(unit, self._tile)
        batch = max(unit, batch // whole * whole or batch // unit * unit)
        plan, loads = self._plan.coarsen(made.job.to), self._loads(owners)
        return PartsSplit(
            owners,
            sum(layer.volume for layer in plan.layers[1:]),
            made.tasks,
            max(loads) / max(1, sum(loads)) / groups,
            batch,
            worker.chosen.projection.reserved + weights + READING + SLACK + DEPTH * batch * sample,
        )

    # -- of the driver

    def submit(self, batch: Batch, workers: Sequence[Worker]) -> Submitted:
        """See `Strategy`."""
        owners = min(len(workers), self._store.nparts)
        groups = len(workers) // owners
        self._turn += 1
        first = self._turn % groups * owners
        used = workers[first : first + owners]
        made = self._recipe(owners, len({worker.host for worker in used}) == 1)
        source, held = self._samples(batch)
        finish = partial(_done, self._job, batch)
        addresses = [worker.address for worker in used]
        rows = self._job.rows or self._job.out is not None
        future = submit(self._client, made, addresses, source, batch.samples, finish, rows)
        return Submitted(future, frozenset(addresses), held)

    def in_flight(self, workers: Sequence[Worker]) -> int:
        """See `Strategy`."""
        return DEPTH * max(1, len(workers) // max(1, min(len(workers), self._store.nparts)))

    def stop(self) -> None:
        """See `Strategy`."""
        self._client.run(stop_run, self._job.run, on_error="ignore")

    def close(self) -> None:
        """Workers keep their parts for the next run, a while."""

    # -- how

    def _to(self, owners: int) -> tuple[int, ...]:
        if owners not in self._owner:
            self._owner[owners] = grouped(self._store, owners)
        return self._owner[owners]

    def _samples(self, batch: Batch) -> tuple[Any, tuple[Any, ...]]:
        if self._source.shared is not None:
            return span_of(self._source.shared, batch), ()
        rows = self._source.rows(self._client, batch)
        return rows, (rows,)

    def _recipe(self, owners: int, one_host: bool) -> Recipe:
        lending = one_host and bool(config.get("shared-memory"))
        if (owners, lending) not in self._made:
            to = self._to(owners)
            self._made[owners, lending] = recipe(
                self._store, self._plan.coarsen(to), to, self._settings(owners), lending
            )
        return self._made[owners, lending]

    def _settings(self, owners: int) -> Settings:
        """Weights stay where they leave half of the budget to panels."""
        layers = len(self._store)
        stay = Settings(self._tile, 1, ((0, layers),), True, False, 1, self._tile)
        if self._weights(stay, owners) <= self._budget // 2:
            return stay
        sizes = sizes_of(self._store)
        return replace(stay, slabs=cut_slabs(sizes, SLAB_BYTES * owners), resident=False)

    def _loads(self, owners: int) -> list[int]:
        edges = self._store.block_nonzeros().sum(axis=0)
        return [int(n) for n in np.bincount(self._to(owners), weights=edges, minlength=owners)]

    def _weights(self, settings: Settings, owners: int) -> int:
        """Bytes of the largest owner's weights that are held at once."""
        sizes, loads = sizes_of(self._store), self._loads(owners)
        share = max(loads) / max(1, sum(loads))
        slabs = [slab_bytes(sizes, slab) for slab in settings.slabs]
        return int(share * (sum(slabs) if settings.resident else max(slabs)))

    def _sample_bytes(self, owners: int) -> int:
        """Bytes that a batch in flight takes on a worker for each sample: two panels, slices both ways, inputs, outputs."""
        plan = self._plan.coarsen(self._to(owners))
        panel = max(max(layer.panel_size(p) for p in range(owners)) for layer in plan.layers)
        moving = max(int(layer.sent().sum(axis=1).max() + layer.sent().sum(axis=0).max()) for layer in plan.layers)
        outputs = 2 * self._store.widths[-1] if self._job.rows or self._job.out is not None else 0
        words = panel + max(panel, self._store.widths[0]) + moving + outputs
        return (words + (self._store.widths[0] if self._source.waits else 0)) * self._store.dtype.itemsize


def _done(job: Job, batch: Batch, found: Found, rows: Array | None) -> Done:
    """Write a batch's outputs, or give them."""
    with running(job.run):
        if job.out is not None and rows is not None:
            Region(job.out, batch.start, batch.stop)[0 : batch.samples] = rows
    kept = rows if job.rows else None
    return Done(found.categories + batch.start, found.worked, found.peak_rss, kept)
