"""What the tasks of parts split do, on the worker that holds the parts: read, advance, send, bury, deliver.

An owner's weights are loaded once in a process and kept there while they are used, as the settings of the plan say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock, Timer
from time import monotonic
from typing import Any

import numpy as np

from dasksdnn import host
from dasksdnn.compiling import warm_up
from dasksdnn.engines.cluster import slices
from dasksdnn.engines.cluster.slices import Borrowed, Lent
from dasksdnn.engines.feeder import Feeder
from dasksdnn.engines.inference import prepare
from dasksdnn.engines.local import DEAD_SHARE
from dasksdnn.engines.session import IDLE
from dasksdnn.engines.shares import Share, share_of
from dasksdnn.engines.tiles import POOL, Received, Tiles, advance, alive, compact, empty_tiles, take
from dasksdnn.engines.weights import Weights
from dasksdnn.kernels import ring
from dasksdnn.kernels import rows as row_kernels
from dasksdnn.network import Array
from dasksdnn.plan.memory import Settings
from dasksdnn.sources.datasets import as_dataset
from dasksdnn.store.reader import Store, reopen


@dataclass(frozen=True, slots=True)
class Job:
    """What all tasks of a run share.

    Attributes
    ----------
    path, digest : str
        Of the store.
    to : tuple of int
        The owner of each part.
    settings : Settings
        Tile, and how an owner's weights are held.
    dtype : str
        Of values.
    lending : bool
        Slices go through shared memory: all owners are on one host.
    """

    path: str
    digest: str
    to: tuple[int, ...]
    settings: Settings
    dtype: str
    lending: bool


class Holding:
    """An owner's parts, opened and loaded."""

    def __init__(self, job: Job, owner: int) -> None:
        self.store: Store = reopen(job.path, job.digest)
        self.share: Share = share_of(self.store, job.to, owner)
        prepare(self.store)
        warm_up([*row_kernels.warm_up_calls(self.store.dtype), *ring.warm_up_calls()])
        self._weights = Weights(self.store, job.settings, self.share)
        self._settings = job.settings
        self._lock = Lock()
        self.used = monotonic()

    def advance(
        self, tiles: Tiles, first: int, last: int, received: Received = (), lend: bool = False
    ) -> Tiles | Ahead:
        """Through layers `first` to `last`, slab by slab; what the others need of the result is lent where that is asked."""
        slabs = [(a, b) for a, b in self._settings.slabs if a < last and b > first]
        pieces: dict[int, Any] = {}
        given: list[tuple[Array, Array]] = []
        for to, rows in self.share.crossings[last].sends if lend else ():
            pieces[to] = lent = _lent(rows.size * tiles.samples, tiles.panels.dtype)
            given.append((rows, lent.values if isinstance(lent, Lent) else lent))
        for a, b in slabs:
            end = min(b, last)
            with self._lock:  # one task reads weights at a time; where all stay, the others wait for nothing but that
                slab = self._weights.slab(max(a, first))
                if b < len(self.store):
                    self._weights.prefetch(b)
            tiles = advance(
                tiles,
                slab,
                max(a, first),
                end,
                self._room(end),
                received if a <= first else (),
                given if end == last else (),
            )
        self.used = monotonic()
        return Ahead(tiles, pieces) if lend else tiles

    def _room(self, k: int) -> int:
        return int(self.share.crossings[k].received.size) if k < len(self.store) else 0

    def close(self) -> None:
        """Give the weights back."""
        with self._lock:
            self._weights.close()


_holdings: dict[tuple[Job, int], Holding] = {}
_opening = Lock()
_timer: Timer | None = None


def holding(job: Job, owner: int) -> Holding:
    """What this process holds for an owner; of other jobs nothing is kept."""
    with _opening:
        found = _holdings.get((job, owner))
        _drop_when_idle()
        if found is None:
            for key in [key for key in _holdings if key[0] != job]:
                _holdings.pop(key).close()
            found = _holdings[job, owner] = Holding(job, owner)
        return found


def _drop_when_idle() -> None:
    """See to it that a minute after the last task nothing is held any more."""
    global _timer
    if _timer is None:
        _timer = Timer(IDLE, _look)
        _timer.daemon = True
        _timer.start()


def _look() -> None:
    global _timer
    with _opening:
        _timer = None
        if not all(monotonic() - held.used > IDLE for held in _holdings.values()):
            _drop_when_idle()
            return
    release()


def release() -> None:
    """Give back all that this process holds."""
    with _opening:
        while _holdings:
            _holdings.popitem()[1].close()
    POOL.clear()
    slices.release()


@dataclass(frozen=True, slots=True, eq=False)
class Ahead:
    """Tiles, and the slices that other owners of the same host need of them."""

    tiles: Tiles
    pieces: dict[int, Any]

    def __sizeof__(self) -> int:
        return self.tiles.__sizeof__()


@dataclass(frozen=True, slots=True, eq=False)
class Fate:
    """Which samples of a batch go on, and what became of the others.

    Attributes
    ----------
    columns : int array
        Of the samples there were, those that go on.
    names : int array
        Their numbers in the batch.
    follows : int array of shape (samples of the batch,)
        -2: goes on. -1: its output is zero. Else the sample whose output it shares.
    worked : int
        Multiply-adds up to here.
    """

    columns: Array
    names: Array
    follows: Array
    worked: int

    def sources(self) -> Array:
        """For each sample of the batch, where among `names` its output is, or -1: it is zero."""
        at = np.arange(self.follows.size)
        while (onward := self.follows[at] >= 0).any():
            at[onward] = self.follows[at[onward]]
        position = np.full(self.follows.size, -1, np.int64)
        position[self.names] = np.arange(self.names.size)
        return np.where(self.follows[at] == -2, position[at], -1)


def begin(job: Job, owner: int, source: Any, last: int, lend: bool) -> Tiles | Ahead:
    """Read a batch, and take it through the layers before the first exchange.

    Parameters
    ----------
    job : Job
    owner : int
    source : Dataset or array
        The batch's samples.
    last : int
    lend : bool
        Lend what other owners need behind these layers.
    """
    held = holding(job, owner)
    store, tile = held.store, job.settings.tile
    dataset = as_dataset(source)
    whole_tiles = replace(job.settings, rows=max(tile, job.settings.rows // tile * tile))  # only the last is not full
    feeder = Feeder(dataset, whole_tiles, store.dtype)
    tiles = empty_tiles(store.widths[0], store.widths[0], int(dataset.samples), tile, store.dtype)
    panels = iter(tiles.panels)
    while (some := feeder.next()) is not None:
        feeder.fill(some, next(panels))
    return held.advance(tiles, 0, last, lend=lend)


def _lent(size: int, dtype: np.dtype[Any]) -> Any:
    """Room for a slice where others can read it."""
    return Lent(size, dtype) if size else np.empty(0, dtype)


def _tiles(result: Tiles | Ahead) -> Tiles:
    return result.tiles if isinstance(result, Ahead) else result


def _values(piece: Any, owner: int) -> Array:
    """What a slice holds for an owner, however it came."""
    if isinstance(piece, dict):
        piece = piece[owner]
    values: Array = piece.values if isinstance(piece, Lent | Borrowed) else piece
    return values


def pieces_of(result: Ahead) -> dict[int, Any]:
    """What an owner lends, by who needs it: a result of its own, as copies of the tiles are never to be anywhere else."""
    return result.pieces


def onward(
    job: Job, owner: int, before: Tiles | Ahead, fate: Fate | None, first: int, last: int, lend: bool, *pieces: Any
) -> Tiles | Ahead:
    """Complete a layer's input with the slices of other owners, in their order, and take it to the next exchange."""
    held, tiles = holding(job, owner), _tiles(before)
    crossing = held.share.crossings[first]
    if fate is not None and fate.columns.size < tiles.samples:
        tiles = compact(tiles, fate.columns, crossing.panel)
    came = zip(crossing.receives, pieces, strict=True) if pieces else ()
    received = [(_values(piece, owner), low, high - low) for (_, low, high), piece in came]
    return held.advance(tiles, first, last, received, lend)


def piece(job: Job, owner: int, to: int, k: int, before: Tiles | Ahead, fate: Fate | None) -> Any:
    """What owner `to` needs of this one's outputs before layer `k`."""
    tiles = _tiles(before)
    rows = dict(holding(job, owner).share.crossings[k].sends)[to]
    columns = np.arange(tiles.samples) if fate is None else fate.columns
    size, dtype = rows.size * columns.size, tiles.panels.dtype
    made = _lent(size, dtype) if job.lending else np.empty(size, dtype)
    take(tiles, columns, rows, made.values if isinstance(made, Lent) else made)
    return made


def signs(result: Tiles | Ahead) -> Array:
    """Which samples an owner sees alive, as bits."""
    return alive(_tiles(result))


def last_signs(result: Tiles | Ahead) -> tuple[Array, int]:
    """The same of the outputs, and the most memory that the owner's process has held, in bytes."""
    return signs(result), host.peak_resident()


def bury(before: Fate | None, samples: int, edges: int, stays_zero: bool, *bits: Array) -> Fate:
    """Let samples go that no owner sees alive, but for one whose output the others will share where that is not zero.

    Parameters
    ----------
    before : Fate or None
    samples : int
        Of the batch.
    edges : int
        Of the layers since then.
    stays_zero : bool
        What is zero here is zero at the output, too.
    *bits : arrays
        What `signs` gave for each owner.
    """
    names = np.arange(samples) if before is None else before.names
    follows: Array = np.full(samples, -2, np.int64) if before is None else before.follows.copy()
    worked = edges * names.size + (0 if before is None else before.worked)
    live = np.unpackbits(np.bitwise_or.reduce(bits), count=names.size).astype(bool)
    dead = np.flatnonzero(~live)
    if dead.size * DEAD_SHARE < names.size:
        return Fate(np.arange(names.size), names, follows, worked)
    if stays_zero:
        follows[names[dead]] = -1
    elif dead.size:
        live[dead[0]] = True
        follows[names[dead[1:]]] = names[dead[0]]
    columns = np.flatnonzero(live)
    return Fate(columns, names[columns], follows, worked)


@dataclass(frozen=True, slots=True)
class Found:
    """What a batch gave.

    Attributes
    ----------
    categories : int array
        Samples whose output has a non-zero, ascending.
    worked : int
        Multiply-adds.
    peak_rss : int
        Of the owners' processes, the most.
    """

    categories: Array
    worked: int
    peak_rss: int


def found(fate: Fate | None, samples: int, edges: int, *last: tuple[Array, int]) -> Found:
    """Put together what `last_signs` gave for each owner; see `bury`."""
    going = samples if fate is None else fate.names.size
    worked = edges * going + (0 if fate is None else fate.worked)
    live = np.unpackbits(np.bitwise_or.reduce([bits for bits, _ in last]), count=going).astype(bool)
    if fate is not None:
        live = np.append(live, False)[fate.sources()]  # the last one stands for what is zero
    return Found(np.flatnonzero(live), worked, max(peak for _, peak in last))


def deliver(job: Job, fate: Fate | None, orders: Sequence[Array], *outputs: Tiles) -> Array:
    """Outputs of a batch, shape (samples, outputs), in the network's own numbering.

    Parameters
    ----------
    job : Job
    fate : Fate or None
    orders : sequence of int arrays
        Neurons of each owner's rows.
    outputs : Tiles
        Of each owner.
    """
    count, width = outputs[0].samples, sum(int(order.size) for order in orders)
    rows: Array = np.empty((count, width), job.dtype)
    for order, tiles in zip(orders, outputs, strict=True):
        at = 0
        for panel, some in tiles.each():
            rows[at : at + some, order] = panel[: tiles.own, :some].T
            at += some
    if fate is None:
        return rows
    sources = fate.sources()
    every: Array = np.zeros((sources.size, width), job.dtype)
    every[sources >= 0] = rows[sources[sources >= 0]]
    return every
