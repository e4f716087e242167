"""A batch as tiles: panels of some samples each, taken through runs of layers by one owner of parts.

    Tiles    [ own rows | received ]  x tile 0, tile 1, ...      the input of a layer, complete once slices have arrived
    slice    [ some rows ]  x the samples that go on             what another owner needs of it

Nothing here changes what it is given but for the rows that slices fill, always with the same values: a task that runs again
finds its input as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np

from dasksdnn.engines.loading import Slab
from dasksdnn.kernels.chain import run_chain
from dasksdnn.kernels.panels import alive_columns, move_columns, new_panel
from dasksdnn.kernels.rows import pack, pack_columns, unpack
from dasksdnn.network import Array


class Pool:
    """Memory that is used again: a system that takes back what is freed would give each panel page by page, with a fault each.

    Dask's workers ask the C library for just that (MALLOC_TRIM_THRESHOLD_).
    """

    def __init__(self) -> None:
        self._free: list[Array] = []
        self._lock = Lock()

    def take(self, nbytes: int) -> Buffer:
        """Bytes that begin at a cache line, at least so many."""
        with self._lock:
            fitting = [b for b in self._free if nbytes <= b.size <= 2 * nbytes]
            if fitting:
                chosen = min(fitting, key=lambda b: int(b.size))
                self._free = [b for b in self._free if b is not chosen]
                return Buffer(chosen, self)
        return Buffer(new_panel(1, nbytes, np.uint8)[0], self)

    def give(self, held: Array) -> None:
        """Take memory back."""
        with self._lock:
            self._free.append(held)
            if len(self._free) > _KEPT:
                del self._free[0]

    def clear(self) -> None:
        """Give all of it back to the system."""
        with self._lock:
            self._free.clear()


#: Free buffers that a pool keeps.
_KEPT = 12
POOL = Pool()


class Buffer:
    """Memory of a pool, which gets it back when nobody refers to this object any more."""

    __slots__ = ("_pool", "held")

    def __init__(self, held: Array, pool: Pool) -> None:
        self.held, self._pool = held, pool

    def __del__(self) -> None:
        self._pool.give(self.held)

    def panels(self, count: int, rows: int, width: int, dtype: np.dtype[np.generic]) -> Array:
        """View it as panels, shape (count, rows, width)."""
        size = count * rows * width * dtype.itemsize
        view: Array = self.held[:size].view(dtype).reshape(count, rows, width)
        return view


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Panels of a batch.

    Attributes
    ----------
    panels : array of shape (tiles, rows, tile)
    samples : int
        All panels are full but the last.
    own : int
        Rows that the owner computed; those behind them are room for what it receives.
    buffer : Buffer or None
        What the panels stand in.
    """

    panels: Array
    samples: int
    own: int
    buffer: Buffer | None = None

    def __sizeof__(self) -> int:
        return int(self.panels.nbytes) + 200

    def __reduce__(self) -> Any:
        return Tiles, (self.panels, self.samples, self.own)

    @property
    def tile(self) -> int:
        """Samples of a full panel."""
        return int(self.panels.shape[2])

    def each(self) -> Iterator[tuple[Array, int]]:
        """Panels, and how many samples each has."""
        for t, panel in enumerate(self.panels):
            yield panel, min(self.tile, self.samples - t * self.tile)


def empty_tiles(rows: int, own: int, samples: int, tile: int, dtype: np.dtype[np.generic]) -> Tiles:
    """Room for a batch."""
    count = -(-samples // tile)
    buffer = POOL.take(count * rows * tile * dtype.itemsize)
    return Tiles(buffer.panels(count, rows, tile, dtype), samples, own, buffer)


#: Slices that complete an input, and such as are taken of a result: see `advance`.
Received = Sequence[tuple[Array, int, int]]
Given = Sequence[tuple[Array, Array]]


def advance(
    tiles: Tiles, slab: Slab, first: int, last: int, room: int, received: Received = (), given: Given = ()
) -> Tiles:
    """Complete tiles, and take them through layers `first` to `last` of a slab.

    All is done tile by tile, so that what arrives and what is given is in the cache when the kernels need it, or have it.

    Parameters
    ----------
    tiles : Tiles
    slab : Slab
    first, last : int
        0-based in the network, `last` not included.
    room : int
        Rows that the result needs for what the owner will receive.
    received : sequence of (slice, first, rows)
        Slices, and which rows of the input they fill.
    given : sequence of (rows, slice)
        Rows of the result that slices, which are written, take.
    """
    chain, a, b = slab.chain, first - slab.first, last - slab.first
    own = chain.block(b - 1).rows
    out = empty_tiles(own + room, own, tiles.samples, tiles.tile, chain.data.dtype)
    widest = max(chain.widths[a : b + 1]) if b - a > 1 else 0
    buffer = POOL.take(2 * widest * tiles.tile * chain.data.itemsize)
    work = buffer.panels(2, widest, tiles.tile, chain.data.dtype)
    coming = [(_pieces(message, rows, tiles.samples, tiles.tile), at) for message, at, rows in received]
    going = [(rows, _pieces(message, int(rows.size), tiles.samples, tiles.tile)) for rows, message in given]
    for t, ((x, count), y) in enumerate(zip(tiles.each(), out.panels, strict=True)):
        for pieces, at in coming:
            unpack(pieces[t], x, at)
        if b - a > 1:
            run_chain(chain, a, a + 1, x, work[0], count)
            x, _ = run_chain(chain, a + 1, b - 1, work[0], work[1], count)
        run_chain(chain, b - 1, b, x, y, count)
        for rows, pieces in going:
            pack(y, rows, pieces[t])
    return out


def compact(tiles: Tiles, columns: Array, rows: int) -> Tiles:
    """Keep some samples, packed together, and make room for `rows` rows in all."""
    out = empty_tiles(rows, tiles.own, int(columns.size), tiles.tile, tiles.panels.dtype)
    for source, cut, target, at in _moves(tiles, columns, list(out.panels)):
        move_columns(source, cut, target, at, tiles.own)
    return out


def take(tiles: Tiles, columns: Array, rows: Array, out: Array) -> None:
    """Some rows of some samples, as a slice.

    Parameters
    ----------
    tiles : Tiles
    columns : int array
        Samples, ascending.
    rows : int array
    out : array of shape (rows * columns,)
        Written: tiles end to end, each of shape (rows, samples).
    """
    pieces = _pieces(out, int(rows.size), int(columns.size), tiles.tile)
    if columns.size == tiles.samples:
        for (panel, _), piece in zip(tiles.each(), pieces, strict=True):
            pack(panel, rows, piece)
        return
    for source, cut, target, at in _moves(tiles, columns, pieces):
        pack_columns(source, rows, cut, target, at)


def alive(tiles: Tiles) -> Array:
    """Which samples have a non-zero among the owner's rows, as bits."""
    flags = [alive_columns(panel, tiles.own, count) for panel, count in tiles.each()]
    return np.packbits(np.concatenate([np.empty(0, np.bool_), *flags]))


def _pieces(message: Array, rows: int, samples: int, tile: int) -> list[Array]:
    ends = [*range(0, samples, tile), samples]
    return [message[rows * a : rows * b].reshape(rows, b - a) for a, b in pairwise(ends)]


def _moves(tiles: Tiles, columns: Array, targets: Sequence[Array]) -> Iterator[tuple[Array, Array, Array, int]]:
    """From which panel which columns go to which target, and from which of its columns on."""
    tile = tiles.tile
    for j, target in enumerate(targets):
        wanted, at = columns[j * tile : (j + 1) * tile], 0
        for t in np.unique(wanted // tile).tolist():
            cut = wanted[wanted // tile == t] - t * tile
            yield tiles.panels[t], cut, target, at
            at += cut.size
