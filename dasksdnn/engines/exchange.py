"""What ranks send each other while they train or infer: activations forward, deltas back, and sums of gradients.

                  owner 0    owner 1    owner 2         owners of one replica exchange entries of panels (expand, fold)
    replica 0     rank 0     rank 1     rank 2
    replica 1     rank 3     rank 4     rank 5          replicas of one owner add up their gradients

Parts are split over owners, samples over replicas. Whatever is added up is added in the order of ranks, so a run repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic_ns

import numpy as np

from dasksdnn.engines.shares import Share
from dasksdnn.engines.transport import Transport, gather
from dasksdnn.kernels.routes import COUNTED, EVENT, MESSAGES, PACKING, WAITING, WORDS, Routes
from dasksdnn.kernels.rows import add_up, pack, unpack
from dasksdnn.network import Array

#: Panels of some samples, and how many of their columns are samples.
Panels = Sequence[tuple[Array, int]]


@dataclass(frozen=True, slots=True)
class Grid:
    """Where a rank stands among owners and replicas.

    Attributes
    ----------
    transport : Transport
    owners : int
        Its size is a multiple of them.
    """

    transport: Transport
    owners: int = 1

    @property
    def owner(self) -> int:
        """Which share of the parts this rank has."""
        return self.transport.rank % self.owners

    @property
    def replica(self) -> int:
        """Which share of the samples this rank has."""
        return self.transport.rank // self.owners

    @property
    def replicas(self) -> int:
        """How many ranks have the same parts."""
        return self.transport.size // self.owners

    def other_owner(self, owner: int) -> int:
        """The rank of another owner in the same replica."""
        return self.replica * self.owners + owner

    def other_replica(self, replica: int) -> int:
        """The rank of the same owner in another replica."""
        return replica * self.owners + self.owner

    def samples(self, count: int) -> tuple[int, int]:
        """First and last of the samples of this rank, of so many."""
        return count * self.replica // self.replicas, count * (self.replica + 1) // self.replicas


def new_tally(layers: int) -> Array:
    """Counters of a rank, at zero: int64 of shape (3, layers + 1, 5); forward, back, and sums over replicas."""
    return np.zeros((3, layers + 1, COUNTED), np.int64)


class Exchange:
    """Expands and folds between the owners of one replica, in buffers that are made once.

    Parameters
    ----------
    grid : Grid
    share : Share
    tile, tiles : int
        Samples of a tile, and at most so many tiles at once.
    dtype : numpy dtype

    Attributes
    ----------
    routes : Routes or None
        With which compiled code makes the same exchanges itself, where the transport lets it.
    tally : int64 array of shape (3, layers + 1, 5)
        What they sent, and took, forward and back, and for sums over replicas: see `kernels.routes`.
    sent : int64 array of shape (owners,)
        Values sent to each other owner so far, both ways; compiled code counts by layer alone.
    """

    def __init__(self, grid: Grid, share: Share, tile: int, tiles: int, dtype: np.dtype[np.generic]) -> None:
        self._grid, self._crossings = grid, share.crossings
        self.routes = _routes(grid, share, tile, tiles, dtype)
        layers = len(share.crossings)
        self.tally: Array = new_tally(layers) if self.routes is None else self.routes.tally
        self.sent: Array = np.zeros(grid.owners, np.int64)
        self._most = 0 if self.routes is not None else _most(share) * tile
        self._out, self._in = (np.empty(self._most * tiles, dtype) for _ in range(2))

    @property
    def words(self) -> int:
        """Values sent to other owners so far."""
        return int(self.tally[:2, :, WORDS].sum())

    def events(self) -> list[Array]:
        """What compiled code noted for a trace."""
        return [] if self.routes is None else [self.routes.events[: self.routes.noted[0]]]

    def expand(self, panels: Panels, k: int) -> None:
        """Complete input panels of layer `k` (0-based), whose own rows are there."""
        self.depart(panels, k)()

    def depart(self, panels: Panels, k: int, at: int = 0) -> Callable[[], None]:
        """Begin to complete input panels; returns what waits for the end, and completes them.

        Parameters
        ----------
        panels : sequence of (panel, columns)
        k : int
        at : int
            So many tiles are under way in other expands, begun before this one.
        """
        began, crossing = monotonic_ns(), self._crossings[k]
        ranges = [(sender, np.arange(first, last)) for sender, first, last in crossing.receives]
        count = sum(columns for _, columns in panels)
        sends = _cut(self._out[at * self._most :], crossing.sends, count)
        receives = _cut(self._in[at * self._most :], ranges, count)
        for (_, rows), (_, message) in zip(crossing.sends, sends, strict=True):
            for panel, part in _tiles(panels, message, rows.size):
                pack(panel, rows, part)
        arrive = self._start(sends, receives, self.tally[0, k], began)

        def complete() -> None:
            began = arrive()
            for (_, first, last), (_, message) in zip(crossing.receives, receives, strict=True):
                for panel, part in _tiles(panels, message, last - first):
                    unpack(part, panel, first)
            self.tally[0, k, PACKING] += monotonic_ns() - began

        return complete

    def fold(self, panels: Panels, k: int) -> None:
        """Send partial sums in the received rows of input panels of layer `k` back, and add up what comes for the own ones."""
        began, crossing = monotonic_ns(), self._crossings[k]
        ranges = [(sender, np.arange(first, last)) for sender, first, last in crossing.receives]
        count = sum(columns for _, columns in panels)
        sends, receives = _cut(self._out, ranges, count), _cut(self._in, crossing.sends, count)
        for (_, rows), (_, message) in zip(ranges, sends, strict=True):
            for panel, part in _tiles(panels, message, rows.size):
                pack(panel, rows, part)
        began = self._start(sends, receives, self.tally[1, k], began)()
        for (_, rows), (_, message) in zip(crossing.sends, receives, strict=True):
            for panel, part in _tiles(panels, message, rows.size):
                add_up(part, panel, rows)
        self.tally[1, k, PACKING] += monotonic_ns() - began

    def _start(
        self, sends: list[tuple[int, Array]], receives: list[tuple[int, Array]], tally: Array, began: int
    ) -> Callable[[], int]:
        """Begin to exchange what has been packed since `began`; returns what waits for the end and gives its time."""
        packed = monotonic_ns()
        finish = _start(self._grid.transport, self._grid.other_owner, sends, receives)
        for to, message in sends:
            self.sent[to] += message.size
            tally[WORDS] += message.size
        tally[MESSAGES] += len(sends)
        tally[PACKING] += packed - began
        tally[WAITING] += monotonic_ns() - packed

        def arrive() -> int:
            began = monotonic_ns()
            finish()
            ended = monotonic_ns()
            tally[WAITING] += ended - began
            return ended

        return arrive


def _most(share: Share) -> int:
    """Values of a sample that an owner sends, or receives, before one layer, at most."""
    return max(max(c.words, int(c.received.size)) for c in share.crossings)


def _routes(grid: Grid, share: Share, tile: int, tiles: int, dtype: np.dtype[np.generic]) -> Routes | None:
    """The share's exchanges as compiled code takes them; None where it cannot send, or nobody exchanges anything."""
    wire = grid.transport.wire
    if wire is None or not share.meets:
        return None
    sends: list[tuple[int, int, int]] = []
    receives: list[tuple[int, int, int]] = []
    sends_at, receives_at, rows = [0], [0], [np.empty(0, np.int64)]
    filled = 0
    for crossing in share.crossings:
        for to, some in crossing.sends:
            sends.append((grid.other_owner(to), filled, filled + int(some.size)))
            rows.append(some.astype(np.int64))
            filled += int(some.size)
        receives += [(grid.other_owner(sender), first, last) for sender, first, last in crossing.receives]
        sends_at.append(len(sends))
        receives_at.append(len(receives))
    requests = max(len(c.sends) + len(c.receives) for c in share.crossings)
    layers, most = len(share.crossings), _most(share) * tile
    meets: Array = np.zeros(layers + 1, np.bool_)
    meets[list(share.meets)] = True
    return Routes(
        handles=np.array([wire.communicator, wire.datatypes[dtype.name], wire.request], np.int64),
        meets=meets,
        sends=np.array(sends, np.int64).reshape(-1, 3),
        receives=np.array(receives, np.int64).reshape(-1, 3),
        sends_at=np.array([*sends_at, sends_at[-1]], np.int64),
        receives_at=np.array([*receives_at, receives_at[-1]], np.int64),
        rows=np.concatenate(rows),
        out=np.empty((tiles, most), dtype),
        into=np.empty((tiles, most), dtype),
        requests=np.zeros((tiles, requests * wire.request), np.uint8),
        statuses=np.zeros((tiles, requests * wire.status), np.uint8),
        open=np.zeros(tiles, np.int64),
        tally=new_tally(layers),
        events=np.zeros((wire.events, EVENT), np.int64),
        noted=np.zeros(1, np.int64),
        clock=np.zeros(2, np.int64),
    )


def exchange_between(grid: Grid, sends: Iterable[tuple[int, Array]], receives: Iterable[tuple[int, Array]]) -> None:
    """Exchange arrays with other owners of the same replica; what is empty is not sent."""
    _start(grid.transport, grid.other_owner, sends, receives)()


def _start(
    transport: Transport,
    rank: Callable[[int], int],
    sends: Iterable[tuple[int, Array]],
    receives: Iterable[tuple[int, Array]],
) -> Callable[[], None]:
    """Begin to exchange what is not empty; see `Transport.start`."""
    return transport.start(
        [(rank(to), message) for to, message in sends if message.size],
        [(rank(source), message) for source, message in receives if message.size],
    )


def _cut(buffer: Array, messages: Sequence[tuple[int, Array]], count: int) -> list[tuple[int, Array]]:
    """Room for each message in a buffer."""
    cut, at = [], 0
    for other, rows in messages:
        cut.append((other, buffer[at : at + rows.size * count]))
        at += rows.size * count
    return cut


def _tiles(panels: Panels, message: Array, rows: int) -> list[tuple[Array, Array]]:
    """The piece of a message that is of each panel: they lie end to end."""
    tiles, at = [], 0
    for panel, columns in panels:
        tiles.append((panel, message[at : at + rows * columns].reshape(rows, columns)))
        at += rows * columns
    return tiles


class Outputs:
    """The last layer's outputs of all owners, side by side at each of them: a loss needs them all.

    Parameters
    ----------
    grid : Grid
    share : Share
    tile : int
        Width of a panel.
    dtype : numpy dtype
    """

    def __init__(self, grid: Grid, share: Share, tile: int, dtype: np.dtype[np.generic]) -> None:
        self._grid = grid
        rows = share.rows(len(share.store) - 1).astype(np.int64)
        each = gather(grid.transport, rows)
        members = [each[grid.other_owner(owner)] for owner in range(grid.owners)]
        self.rows = np.concatenate(members)
        self._ends = np.cumsum([0, *(m.size for m in members)]).tolist()
        self._y, self._delta = (np.zeros((self.rows.size, tile), dtype) for _ in range(2))

    @property
    def own(self) -> slice:
        """Rows of this owner."""
        first, last = self._ends[self._grid.owner : self._grid.owner + 2]
        return slice(first, last)

    def gather(self, y: Array) -> Array:
        """The outputs of all owners, from this one's; a panel of the same width."""
        self._y[self.own] = y
        mine = np.ascontiguousarray(y)
        others = [owner for owner in range(self._grid.owners) if owner != self._grid.owner]
        theirs = [(owner, self._y[self._ends[owner] : self._ends[owner + 1]]) for owner in others]
        exchange_between(self._grid, [(owner, mine) for owner in others], theirs)
        return self._y

    def delta(self) -> Array:
        """A panel for the deltas of all outputs."""
        return self._delta


class Reduction:
    """Sums of gradients over the replicas of one owner: each sums, and applies, a range, and gives the result to the others.

    Parameters
    ----------
    grid : Grid
    tally : int64 array of shape (layers + 1, 5)
        Where it counts what it sends, and waits, at the first of the layers that go together.
    """

    def __init__(self, grid: Grid, tally: Array) -> None:
        self._grid, self._tally = grid, tally
        self._others = [r for r in range(grid.replicas) if r != grid.replica]
        self._buffers: dict[tuple[int, np.dtype[np.generic]], Array] = {}

    def range(self, size: int, replica: int | None = None) -> slice:
        """The range of an array that a replica (by default this one) sums."""
        r, all_of_them = self._grid.replica if replica is None else replica, self._grid.replicas
        return slice(size * r // all_of_them, size * (r + 1) // all_of_them)

    def add_up(self, arrays: Sequence[Array], layer: int) -> None:
        """Replace this replica's range of each array by the sum of the replicas', in their order."""
        n = len(arrays)
        mine = [a[self.range(a.size)] for a in arrays]
        received = {r: [self._buffer(r * n + i, m) for i, m in enumerate(mine)] for r in self._others}
        self._exchange(
            [(r, a[self.range(a.size, r)]) for r in self._others for a in arrays],
            [(r, message) for r in self._others for message in received[r]],
            layer,
        )
        for i, target in enumerate(mine):
            if self._grid.replica == 0:
                terms = [received[r][i] for r in self._others]
                for term in terms:
                    target += term
                continue
            total = received[0][i]
            for r in range(1, self._grid.replicas):
                total += target if r == self._grid.replica else received[r][i]
            target[:] = total

    def summed(self, values: Array) -> Array:
        """The sum of a small array over all replicas, in their order, at each of them."""
        each = {r: np.empty_like(values) for r in self._others}
        self._exchange([(r, values) for r in self._others], list(each.items()), -1)
        total = np.zeros_like(values)
        for r in range(self._grid.replicas):
            total += each.get(r, values)
        return total

    def give(self, arrays: Sequence[Array], layer: int) -> None:
        """Give this replica's range of each array to the others, and take theirs."""
        self._exchange(
            [(r, a[self.range(a.size)]) for r in self._others for a in arrays],
            [(r, a[self.range(a.size, r)]) for r in self._others for a in arrays],
            layer,
        )

    def _exchange(self, sends: list[tuple[int, Array]], receives: list[tuple[int, Array]], layer: int) -> None:
        began = monotonic_ns()
        _start(self._grid.transport, self._grid.other_replica, sends, receives)()
        self._tally[layer, WAITING] += monotonic_ns() - began
        self._tally[layer, WORDS] += sum(message.size for _, message in sends)
        self._tally[layer, MESSAGES] += len(sends)

    def _buffer(self, number: int, like: Array) -> Array:
        held = self._buffers.get((number, like.dtype))
        if held is None or held.size < like.size:
            held = self._buffers[number, like.dtype] = np.empty(like.size, like.dtype)
        return held[: like.size]
