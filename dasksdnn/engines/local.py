"""The stream of panels through layers, with weights in memory or streamed: the local engine, and what every owner among others does.

    dataset --fill--> panels --segment 0--> survivors wait --segment 1--> survivors wait --> ... --> sink
                               (layers 1)                    (layer 2)

Segments are short at first, where most samples die; at the end of each, dead samples leave and what is left of several
panels is packed together. The deepest segment for which half of the panels wait goes next; otherwise the shallowest
that has work, so that weights are read, and kernels run, for full panels. Owners that go together choose the same, as
they know the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event, Lock, local
from typing import Any

import numpy as np

from dasksdnn.engines.fates import Fates, Sink, stays_zero
from dasksdnn.engines.feeder import Feeder
from dasksdnn.engines.loading import Slab
from dasksdnn.engines.passage import Alone, Panel, Passage
from dasksdnn.engines.weights import Weights, rungs
from dasksdnn.events import Listener, Progress, ignore
from dasksdnn.kernels import reference
from dasksdnn.kernels.panels import move_columns
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
    passage: Passage | None = None,
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
    passage : Passage, optional
        How panels get through layers; by default alone. Together with others, with the weights of the owner's share.

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
        how = Alone(store, settings) if passage is None else passage
        return _Run(store, dataset, sink, settings, own, listener, stop or Event(), how).go()
    finally:
        if weights is None:
            own.close()


def layers_that_map_zero_to_zero(store: Store, parts: Collection[int] | None = None) -> Array:
    """Whether f(bias) is zero in every row (of some parts, where they are given), a boolean array of shape (layers,)."""
    zero: Array = np.ones(len(store), np.bool_)
    for window in store.iter_windows():
        if parts is not None and window.part not in parts:
            continue
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

    def elsewhere(self, samples: int) -> None:
        """Count samples that another owner passes on."""
        if samples:
            self._count(samples)

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
        passage: Passage,
    ) -> None:
        self.store, self.settings, self.weights, self.passage = store, settings, weights, passage
        self.sink = _Counted(sink, dataset.samples, listener)
        if weights.zero_to_zero is None:
            weights.zero_to_zero = layers_that_map_zero_to_zero(store)
        self.fates = Fates(stays_zero(weights.zero_to_zero), self.sink)
        self.feeder = Feeder(dataset, settings, store.dtype)
        self.segments = rungs(settings, len(store))
        self.free = passage.free
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
            place = self.free.pop()
        self.feeder.fill(block, self.passage.buffers[place])
        return Panel(place, np.arange(block.start, block.stop, dtype=np.int64), block.stop - block.start)

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
        span = first, end = self.segments[segment]
        edges = slab.chain.nonzeros(first - slab.first, end - slab.first)
        while not (self.stop.is_set() or self.asked.is_set()) and (group := self._group(source)):
            self.passage.advance(slab, span, group, thread, self.teams[thread])
            with self.lock:
                self.edges += edges * sum(panel.count for panel in group)
            if end == len(self.store):
                for panel in group:
                    names, outputs, order = self.passage.outputs(panel, slab.orders[-1])
                    self._emit(names, outputs, order)
                    self.sink.elsewhere(int((panel.names >= 0).sum() - (names >= 0).sum()))
                    self._release(panel)
            else:
                for panel, live in zip(group, self.passage.alive(group, end), strict=True):
                    packed = self._pack(packed, panel, self._bury(panel, live, end), segment + 1)
        return packed

    def _group(self, source: Callable[[], Panel | None]) -> list[Panel]:
        """The next panels that go together; none where the source is empty."""
        group: list[Panel] = []
        while len(group) < self.passage.group and (panel := source()) is not None:
            group.append(panel)
        return group

    def _bury(self, panel: Panel, live: Array, k: int) -> Array:
        """Tell the fates of a panel's dead samples; returns the columns of those that go on."""
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
        tile, neurons, buffers = self.settings.tile, self.passage.own(self.segments[segment][0]), self.passage.buffers
        if packed is not None and columns.size < tile:
            taken, columns = np.split(columns, [tile - packed.count])
            move_columns(buffers[panel.place], taken, buffers[packed.place], packed.count, neurons)
            packed.names = np.concatenate([packed.names, panel.names[taken]])
            packed.count += taken.size
            if packed.count == tile:
                self._wait(packed, segment)
                packed = None
        if not columns.size:
            self._release(panel)
            return packed
        if columns.size < panel.count:
            move_columns(buffers[panel.place], columns, buffers[panel.place], 0, neurons)
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
            self.free.append(panel.place)

    def _emit(self, names: Array, outputs: Array, order: Array) -> None:
        for c in np.flatnonzero(names < 0):
            output = np.empty(order.size, self.store.dtype)
            output[order] = outputs[: order.size, c]
            self.fates.finish(int(names[c]), output)
        columns = np.flatnonzero(names >= 0)
        if columns.size:
            self.sink.put(names[columns], columns, outputs, order)
