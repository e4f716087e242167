"""The local engine: one machine, threads, the weights in memory or streamed, the samples in panels that merge.

    dataset --fill--> panels --segment 0--> survivors wait --segment 1--> survivors wait --> ... --> sink
                               (layers 1)                    (layer 2)

Segments are short at first, where most samples die; at the end of each, dead samples leave and what is left of several
panels is packed together. The deepest segment for which half of the panels wait goes next; otherwise the shallowest
that has work, so that weights are read, and kernels run, for full panels.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event, Lock, local
from typing import Any

import numpy as np

from dasksdnn.engines.fates import Fates, Sink, stays_zero
from dasksdnn.engines.feeder import Feeder
from dasksdnn.engines.loading import Slab
from dasksdnn.engines.weights import Weights, rungs
from dasksdnn.events import Listener, Progress, ignore
from dasksdnn.kernels import reference
from dasksdnn.kernels.chain import run_chain
from dasksdnn.kernels.panels import alive_columns, move_columns, new_panel
from dasksdnn.kernels.team import Team
from dasksdnn.network import Array
from dasksdnn.plan.memory import Settings
from dasksdnn.store.reader import Store

#: Dead samples leave a panel where they are at least one in so many: moving the others together costs as much as a layer.
DEAD_SHARE = 4

_this_thread = local()


def _mark_computing() -> None:
    _this_thread.computing = True


def computing() -> bool:
    """Whether this thread computes for a run: a dataset that it reads may be the lazy result of another."""
    return getattr(_this_thread, "computing", False)


@dataclass(slots=True)
class Panel:
    """Samples on their way: `buffer` (widest layer, tile) whose first `count` columns are the samples `names`."""

    buffer: Array
    names: Array
    count: int


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did: edges computed for samples that were alive, and bytes of weights loaded."""

    edges: int
    loads: int


def run(
    store: Store,
    dataset: Any,
    sink: Sink,
    settings: Settings,
    listener: Listener = ignore,
    *,
    weights: Weights | None = None,
    stop: Event | None = None,
) -> RunReport:
    """Stream a dataset through a store.

    Parameters
    ----------
    store : Store
    dataset : Dataset
        Of as many features as the network has inputs.
    sink : Sink
        Told of every sample exactly once, in no particular order.
    settings : Settings
        Of a plan.
    listener : callable
        Told of samples finished.
    weights : Weights, optional
        Of the same store and settings, loaded by an earlier run; the caller closes them. By default the run has its own.
    stop : Event, optional
        Ends the run when it is set.

    Returns
    -------
    RunReport

    Raises
    ------
    CancelledError
        `stop` was set.
    """
    own = Weights(store, settings) if weights is None else weights
    try:
        return _Run(store, dataset, sink, settings, own, listener, stop or Event()).go()
    finally:
        if weights is None:
            own.close()


def layers_that_map_zero_to_zero(store: Store) -> Array:
    """Whether f(bias) is zero in every row, a boolean array of shape (layers,)."""
    zero: Array = np.ones(len(store), np.bool_)
    for window in store.iter_windows():
        bias = store.array(window, "bias").read()
        for k, extent in enumerate(store.extents(window), start=window.first):
            zero[k] &= not reference.activate(bias[slice(*extent.rows)], store.activations[k]).any()
    return zero


class _Counted:
    """A sink that counts what passes, for progress."""

    def __init__(self, sink: Sink, total: int, listener: Listener) -> None:
        self._sink, self._total, self._listener = sink, total, listener
        self._lock, self._done = Lock(), 0

    def put(self, samples: Array, columns: Array, panel: Array, order: Array) -> None:
        self._sink.put(samples, columns, panel, order)
        self._count(samples.size)

    def constant(self, samples: Array, output: Array | None) -> None:
        self._sink.constant(samples, output)
        self._count(samples.size)

    def _count(self, samples: int) -> None:
        with self._lock:
            self._done += samples
            self._listener(Progress("infer", self._done, self._total, "samples"))


class _Run:
    def __init__(
        self,
        store: Store,
        dataset: Any,
        sink: Sink,
        settings: Settings,
        weights: Weights,
        listener: Listener,
        asked: Event,
    ) -> None:
        self.store, self.settings, self.weights = store, settings, weights
        self.sink = _Counted(sink, dataset.samples, listener)
        if weights.zero_to_zero is None:
            weights.zero_to_zero = layers_that_map_zero_to_zero(store)
        self.fates = Fates(stays_zero(weights.zero_to_zero), self.sink)
        self.feeder = Feeder(dataset, settings, store.dtype)
        self.segments = rungs(settings, len(store))
        shape = (max(store.widths), settings.tile)
        self.free = [new_panel(*shape, store.dtype) for _ in range(settings.panels)]
        self.spare = [new_panel(*shape, store.dtype) for _ in range(settings.workers)]
        self.waiting: list[list[Panel]] = [[] for _ in self.segments]
        self.teams: list[Team | None] = [None] * settings.workers
        self.lock, self.stop, self.asked = Lock(), Event(), asked
        self.edges, self.loads = 0, weights.loads

    def go(self) -> RunReport:
        with ExitStack() as held:
            if self.settings.team > 1:  # before the pool: its threads end first, as they use the teams
                self.teams = [held.enter_context(Team(self.settings.team)) for _ in range(self.settings.workers)]
            pool = held.enter_context(ThreadPoolExecutor(self.settings.workers, "sdnn-compute", _mark_computing))
            try:
                while (segment := self._choose()) is not None:
                    self._round(segment, pool)
                    if self.asked.is_set():
                        raise CancelledError("the run was stopped")
            finally:
                self.stop.set()
        return RunReport(self.edges, self.weights.loads - self.loads)

    def _choose(self) -> int | None:
        half = max(1, self.settings.panels // 2)
        for segment in range(len(self.segments) - 1, 0, -1):
            if len(self.waiting[segment]) >= half:
                return segment
        if self.feeder.more and self.free:
            return 0
        return next((i for i, panels in enumerate(self.waiting) if panels), None)

    def _round(self, segment: int, pool: ThreadPoolExecutor) -> None:
        """Take all that waits for one segment through it."""
        first, last = self.segments[segment]
        slab = self.weights.slab(first)
        self.weights.prefetch(last if last < len(self.store) else 0)
        source: Callable[[], Panel | None] = self._feed if segment == 0 else self._take(segment)
        work = [pool.submit(self._work, slab, segment, source, i) for i in range(self.settings.workers)]
        try:
            left = [future.result() for future in work]
        except BaseException:
            self.stop.set()
            raise
        merged: Panel | None = None
        for panel in left:
            if panel is not None:
                merged = self._pack(merged, panel, np.arange(panel.count), segment + 1)
        if merged is not None:
            self.waiting[segment + 1].append(merged)

    def _feed(self) -> Panel | None:
        with self.lock:
            if not self.free or (block := self.feeder.next()) is None:
                return None
            buffer = self.free.pop()
        self.feeder.fill(block, buffer)
        return Panel(buffer, np.arange(block.start, block.stop, dtype=np.int64), block.stop - block.start)

    def _take(self, segment: int) -> Callable[[], Panel | None]:
        queue, self.waiting[segment] = self.waiting[segment], []

        def take() -> Panel | None:
            with self.lock:
                return queue.pop() if queue else None

        return take

    def _work(self, slab: Slab, segment: int, source: Callable[[], Panel | None], thread: int) -> Panel | None:
        """Take panels through a segment until none is left; returns one that is not full."""
        try:
            return self._through(slab, segment, source, thread)
        except BaseException:
            self.stop.set()  # the others need not finish their round
            raise

    def _through(self, slab: Slab, segment: int, source: Callable[[], Panel | None], thread: int) -> Panel | None:
        packed: Panel | None = None
        first, end = self.segments[segment]
        span = (first - slab.first, end - slab.first)
        edges = slab.chain.nonzeros(*span)
        while not (self.stop.is_set() or self.asked.is_set()) and (panel := source()) is not None:
            panel.buffer, self.spare[thread] = run_chain(
                slab.chain, *span, panel.buffer, self.spare[thread], panel.count, self.teams[thread]
            )
            with self.lock:
                self.edges += edges * panel.count
            if end == len(self.store):
                self._emit(panel, slab.orders[-1])
                self._release(panel)
            else:
                packed = self._pack(packed, panel, self._bury(panel, end), segment + 1)
        return packed

    def _bury(self, panel: Panel, k: int) -> Array:
        """Tell the fates of a panel's dead samples; returns the columns of those that go on."""
        live = alive_columns(panel.buffer, self.store.widths[k], panel.count)
        dead = np.flatnonzero(~live)
        if dead.size * DEAD_SHARE < panel.count:
            return np.arange(panel.count)
        name = self.fates.die(k, panel.names[dead])
        if name is not None:
            panel.names[dead[0]] = name
            live[dead[0]] = True
        return np.flatnonzero(live)

    def _pack(self, packed: Panel | None, panel: Panel, columns: Array, segment: int) -> Panel | None:
        """Fill `packed` with columns of `panel`; a full one waits for `segment`, one that is not is returned."""
        tile, neurons = self.settings.tile, self.store.widths[self.segments[segment][0]]
        if packed is not None and columns.size < tile:
            taken, columns = np.split(columns, [tile - packed.count])
            move_columns(panel.buffer, taken, packed.buffer, packed.count, neurons)
            packed.names = np.concatenate([packed.names, panel.names[taken]])
            packed.count += taken.size
            if packed.count == tile:
                self._wait(packed, segment)
                packed = None
        if not columns.size:
            self._release(panel)
            return packed
        if columns.size < panel.count:
            move_columns(panel.buffer, columns, panel.buffer, 0, neurons)
        panel.names, panel.count = panel.names[columns], columns.size
        if panel.count == tile:
            self._wait(panel, segment)
            return packed
        return panel

    def _wait(self, panel: Panel, segment: int) -> None:
        with self.lock:
            self.waiting[segment].append(panel)

    def _release(self, panel: Panel) -> None:
        with self.lock:
            self.free.append(panel.buffer)

    def _emit(self, panel: Panel, order: Array) -> None:
        columns = np.arange(panel.count)
        for c in np.flatnonzero(panel.names < 0):
            output = np.empty(order.size, self.store.dtype)
            output[order] = panel.buffer[: order.size, c]
            self.fates.finish(int(panel.names[c]), output)
        columns = columns[panel.names >= 0]
        if columns.size:
            self.sink.put(panel.names[columns], columns, panel.buffer, order)
