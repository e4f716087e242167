"""How panels get through layers: all of a network's in one process, or an owner's among others that have the rest.

Alone       a panel at a time, by each thread
Together    a group of panels at a time: what an owner lacks of one arrives while others are computed; who is alive
anywhere goes on; outputs go to whoever writes them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import monotonic_ns
from typing import Any, Protocol

import numpy as np

from dasksdnn.engines.exchange import Exchange, Grid, exchange_between, new_tally
from dasksdnn.engines.fates import Sink
from dasksdnn.engines.loading import Slab
from dasksdnn.engines.shares import Share
from dasksdnn.engines.transport import gather
from dasksdnn.kernels.chain import run_chain
from dasksdnn.kernels.panels import alive_columns, new_panel
from dasksdnn.kernels.relay import relay
from dasksdnn.kernels.routes import COMPUTING
from dasksdnn.kernels.rows import pack_columns
from dasksdnn.kernels.team import Team
from dasksdnn.network import Array
from dasksdnn.plan.memory import Settings
from dasksdnn.store.reader import Store


@dataclass(slots=True)
class Panel:
    """Samples on their way: the first `count` columns of a passage's buffer `place` are the samples `names`."""

    place: int
    names: Array
    count: int


#: Names of columns of a panel of outputs, the panel, and which output each of its rows is.
Outputs = tuple[Array, Array, Array]


class Passage(Protocol):
    """Takes panels through layers.

    Attributes
    ----------
    group : int
        Panels that go together.
    buffers : sequence of arrays of shape (rows, tile)
    free : list of int
        Those of them that panels may take at the beginning.
    tally : int64 array of shape (3, layers + 1, 5)
        What layers took so far, by the first of those that are computed together: see `kernels.routes`.
    """

    group: int
    buffers: Sequence[Array]
    free: list[int]

    @property
    def tally(self) -> Array: ...

    def own(self, k: int) -> int:
        """Neurons of x_k that stand in a buffer, before what others send."""

    def advance(self, slab: Slab, span: tuple[int, int], panels: list[Panel], thread: int, team: Team | None) -> None:
        """Take panels through layers of a slab; where they stand may change."""

    def alive(self, panels: list[Panel], k: int) -> list[Array]:
        """Which samples of each panel have a non-zero in x_k, all owners' neurons counted; bool arrays."""

    def outputs(self, panel: Panel, order: Array) -> Outputs:
        """What this process is to pass on of a panel that has gone through all layers; `order` is of its own rows."""


class Alone:
    """A process that has all layers, and `settings.workers` threads that each take a panel at a time."""

    def __init__(self, store: Store, settings: Settings) -> None:
        shape, count = (max(store.widths), settings.tile), settings.panels + settings.workers
        self.buffers: Sequence[Array] = [new_panel(*shape, store.dtype) for _ in range(count)]
        self.free = list(range(settings.panels))
        self.group = 1
        self._spare = list(range(settings.panels, count))
        self._widths = store.widths
        # Threads would lose each other's additions to one.
        self._tallies: Array = np.zeros((settings.workers, *new_tally(len(store)).shape), np.int64)

    @property
    def tally(self) -> Array:
        """See `Passage`."""
        total: Array = self._tallies.sum(axis=0)
        return total

    def own(self, k: int) -> int:
        """See `Passage`."""
        return self._widths[k]

    def advance(self, slab: Slab, span: tuple[int, int], panels: list[Panel], thread: int, team: Team | None) -> None:
        """See `Passage`."""
        began = monotonic_ns()
        for panel in panels:
            self._spare[thread] = _through(slab, span, panel, self._spare[thread], self.buffers, team)
        self._tallies[thread, 0, span[0], COMPUTING] += monotonic_ns() - began

    def alive(self, panels: list[Panel], k: int) -> list[Array]:
        """See `Passage`."""
        return [alive_columns(self.buffers[p.place], self._widths[k], p.count) for p in panels]

    def outputs(self, panel: Panel, order: Array) -> Outputs:
        """See `Passage`."""
        return panel.names, self.buffers[panel.place], order


def _through(
    slab: Slab, span: tuple[int, int], panel: Panel, spare: int, buffers: Sequence[Array], team: Team | None
) -> int:
    """A panel through layers that need no exchange; returns which buffer is spare behind them."""
    x, y = buffers[panel.place], buffers[spare]
    layers = (span[0] - slab.first, span[1] - slab.first)
    result, _ = run_chain(slab.chain, *layers, x, y, panel.count, team)
    if result is y:
        panel.place, spare = spare, panel.place
    return spare


class Together:
    """An owner of some of a network's parts, in step with the others of its replica, which make the same calls.

    Parameters
    ----------
    share : Share
    grid : Grid
    settings : Settings
        Of one worker.
    rows : bool
        Without, outputs stay where they are: a panel of outputs has one row, which says who is alive.

    Attributes
    ----------
    mine : callable
        From sample names and an owner to those whose outputs it passes on, a bool array.
    """

    mine: Callable[[Array, int], Array]

    def __init__(self, share: Share, grid: Grid, settings: Settings, rows: bool) -> None:
        store = share.store
        self._share, self._grid, self._rows = share, grid, rows
        self.group = settings.group
        count = settings.panels + self.group
        # A row more than is needed: panels whose sizes are powers of two would share places in the caches.
        self._pool = new_panel(count * (max(share.widths) + 1), settings.tile, store.dtype).reshape(
            count, max(share.widths) + 1, settings.tile
        )
        self.buffers: Sequence[Array] = list(self._pool)
        self.free = list(range(settings.panels))
        self._spare = list(range(settings.panels, count))
        self.exchange = Exchange(grid, share, settings.tile, self.group, store.dtype)
        own = share.rows(len(store) - 1)
        each = gather(grid.transport, own)
        self._members = [each[grid.other_owner(owner)] for owner in range(grid.owners)]
        self._order = np.concatenate(self._members) if rows else np.zeros(1, np.int64)
        self._result = new_panel(self._order.size, settings.tile, store.dtype)
        self._all = np.arange(own.size)

    @property
    def tally(self) -> Array:
        """See `Passage`."""
        return self.exchange.tally

    def own(self, k: int) -> int:
        """See `Passage`."""
        return self._share.outputs if k == len(self._share.store) else self._share.crossings[k].own

    def advance(self, slab: Slab, span: tuple[int, int], panels: list[Panel], thread: int, team: Team | None) -> None:
        """See `Passage`."""
        routes = self.exchange.routes
        if routes is not None:
            places = np.array([(p.place, self._spare[i]) for i, p in enumerate(panels)], np.int64)
            counts = np.array([p.count for p in panels], np.int64)
            relay(slab.chain, slab.first, span, self._pool, places, counts, routes, team)
            if (span[1] - span[0]) % 2:
                for i, panel in enumerate(panels):
                    panel.place, self._spare[i] = self._spare[i], panel.place
            return
        # Half of the panels are computed while the messages of the others travel.
        half = -(-len(panels) // 2)
        halves = [(at, panels[at : at + half]) for at in range(0, len(panels), half)]
        stages = list(self._share.stages(*span))
        arriving = [self._depart(some, stages[0], at) for at, some in halves]
        for stage, after in zip(stages, [*stages[1:], None], strict=True):
            for n, (at, some) in enumerate(halves):
                arriving[n]()
                began = monotonic_ns()
                for i, panel in enumerate(some, at):
                    self._spare[i] = _through(slab, stage, panel, self._spare[i], self.buffers, team)
                self.exchange.tally[0, stage[0], COMPUTING] += monotonic_ns() - began
                if after is not None:
                    arriving[n] = self._depart(some, after, at)

    def _depart(self, panels: list[Panel], stage: tuple[int, int], at: int) -> Callable[[], None]:
        """Begin to complete what a stage needs of panels; `at` panels of the group come before them."""
        if stage[0] not in self._share.meets:
            return lambda: None
        return self.exchange.depart([(self.buffers[p.place], p.count) for p in panels], stage[0], at)

    def alive(self, panels: list[Panel], k: int) -> list[Array]:
        """See `Passage`."""
        own = self.own(k)
        ends = np.cumsum([0, *(p.count for p in panels)])
        flags = np.concatenate([alive_columns(self.buffers[p.place], own, p.count) for p in panels])
        bits = np.packbits(flags)
        others = {owner: np.empty_like(bits) for owner in range(self._grid.owners) if owner != self._grid.owner}
        exchange_between(self._grid, [(owner, bits) for owner in others], list(others.items()))
        for other in others.values():
            bits = bits | other
        flags = np.unpackbits(bits, count=flags.size).astype(np.bool_)
        return [flags[a:b] for a, b in pairwise(ends.tolist())]

    def outputs(self, panel: Panel, order: Array) -> Outputs:
        """See `Passage`."""
        if not self._rows:
            (flags,) = self.alive([panel], len(self._share.store))
            self._result[0, : panel.count] = flags
            return panel.names, self._result, self._order
        grid, owners = self._grid, range(self._grid.owners)
        wanted = {owner: np.flatnonzero(self.mine(panel.names, owner) | (panel.names < 0)) for owner in owners}
        columns = wanted[grid.owner]
        pieces: dict[int, Array] = {}
        for owner, some in wanted.items():
            pieces[owner] = np.empty((self._all.size, some.size), self._result.dtype)
            pack_columns(self.buffers[panel.place], self._all, some, pieces[owner], 0)
        theirs = {o: np.empty((self._members[o].size, columns.size), self._result.dtype) for o in owners}
        others = [owner for owner in owners if owner != grid.owner]
        exchange_between(grid, [(o, pieces[o]) for o in others], [(o, theirs[o]) for o in others])
        theirs[grid.owner] = pieces[grid.owner]
        np.concatenate(list(theirs.values()), out=self._result[:, : columns.size])
        return panel.names[columns], self._result, self._order


class Mine:
    """A sink for some of the samples: those that this process passes on, counted from the first of a dataset.

    Parameters
    ----------
    sink : Sink
    first : int
        Sample 0 of the run is this one of the dataset.
    mine : callable
        From sample numbers of the run to those that this process passes on, a bool array.
    """

    def __init__(self, sink: Sink, first: int, mine: Callable[[Array], Array]) -> None:
        self._sink, self._first, self._mine = sink, first, mine

    def put(self, samples: Array, columns: Array, panel: Array, order: Array) -> None:
        """See `Sink`."""
        some = self._mine(samples)
        if some.any():
            self._sink.put(samples[some] + self._first, columns[some], panel, order)

    def constant(self, samples: Array, output: Array | None) -> None:
        """See `Sink`."""
        some = samples[self._mine(samples)]
        if some.size:
            self._sink.constant(some + self._first, output)

    def nbytes(self, settings: Any) -> int:
        """Bytes held at most."""
        return int(self._sink.nbytes(settings))  # type: ignore[attr-defined]
