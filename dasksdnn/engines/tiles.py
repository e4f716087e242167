"""A batch as tiles: panels of some samples each, taken through runs of layers by one owner of parts.

    Tiles    [ own rows | received ]  x tile 0, tile 1, ...      the input of a layer, complete once slices have arrived
    slice    [ some rows ]  x the samples that go on             what another owner needs of it

Nothing here changes what it is given but for the rows that slices fill, always with the same values: a task that runs again
finds its input as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dasksdnn.engines.loading import Slab
from dasksdnn.kernels.chain import run_chain
from dasksdnn.kernels.panels import alive_columns, move_columns, new_panel
from dasksdnn.kernels.rows import pack, pack_columns, unpack
from dasksdnn.network import Array


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Panels of a batch.

    Attributes
    ----------
    panels : tuple of arrays of shape (rows, tile)
    samples : int
        All panels are full but the last.
    own : int
        Rows that the owner computed; those behind them are room for what it receives.
    dtype : numpy dtype
    """

    panels: tuple[Array, ...]
    samples: int
    own: int
    dtype: np.dtype[np.generic]

    def __sizeof__(self) -> int:
        return sum(panel.nbytes for panel in self.panels) + 200

    @property
    def tile(self) -> int:
        """Samples of a full panel."""
        return int(self.panels[0].shape[1]) if self.panels else 1

    def each(self) -> Iterator[tuple[Array, int]]:
        """Panels, and how many samples each has."""
        for t, panel in enumerate(self.panels):
            yield panel, min(self.tile, self.samples - t * self.tile)


def empty_tiles(rows: int, own: int, samples: int, tile: int, dtype: np.dtype[np.generic]) -> Tiles:
    """Room for a batch."""
    return Tiles(tuple(new_panel(rows, tile, dtype) for _ in range(-(-samples // tile))), samples, own, dtype)


def advance(tiles: Tiles, slab: Slab, first: int, last: int, room: int) -> Tiles:
    """Take complete tiles through layers `first` to `last` of a slab.

    Parameters
    ----------
    tiles : Tiles
    slab : Slab
    first, last : int
        0-based in the network, `last` not included.
    room : int
        Rows that the result needs for what the owner will receive.
    """
    chain, a, b = slab.chain, first - slab.first, last - slab.first
    own = chain.block(b - 1).rows
    out = empty_tiles(own + room, own, tiles.samples, tiles.tile, chain.data.dtype)
    work = [new_panel(max(chain.widths[a : b + 1]), tiles.tile, chain.data.dtype) for _ in range(2 * (b - a > 1))]
    for (x, count), y in zip(tiles.each(), out.panels, strict=True):
        if b - a > 1:
            run_chain(chain, a, a + 1, x, work[0], count)
            x, _ = run_chain(chain, a + 1, b - 1, work[0], work[1], count)
        run_chain(chain, b - 1, b, x, y, count)
    return out


def compact(tiles: Tiles, columns: Array, rows: int) -> Tiles:
    """Keep some samples, packed together, and make room for `rows` rows in all."""
    out = empty_tiles(rows, tiles.own, int(columns.size), tiles.tile, tiles.dtype)
    for source, cut, target, at in _moves(tiles, columns, [panel for panel, _ in out.each()]):
        move_columns(source, cut, target, at, tiles.own)
    return out


def take(tiles: Tiles, columns: Array, rows: Array) -> Array:
    """Some rows of some samples, as a slice: a flat array of their tiles end to end, each of shape (rows, samples)."""
    message: Array = np.empty(rows.size * columns.size, tiles.dtype)
    pieces = _pieces(message, int(rows.size), int(columns.size), tiles.tile)
    if columns.size == tiles.samples:
        for (panel, _), piece in zip(tiles.each(), pieces, strict=True):
            pack(panel, rows, piece)
        return message
    for source, cut, target, at in _moves(tiles, columns, pieces):
        pack_columns(source, rows, cut, target, at)
    return message


def put(tiles: Tiles, message: Array, first: int, rows: int) -> None:
    """Fill rows `first` and following of tiles with a slice."""
    for panel, piece in zip(tiles.panels, _pieces(message, rows, tiles.samples, tiles.tile), strict=True):
        unpack(piece, panel, first)


def alive(tiles: Tiles) -> Array:
    """Which samples have a non-zero among the owner's rows, as bits."""
    flags = [alive_columns(panel, tiles.own, count) for panel, count in tiles.each()]
    return np.packbits(np.concatenate([np.empty(0, np.bool_), *flags]))


def _pieces(message: Array, rows: int, samples: int, tile: int) -> list[Array]:
    ends = [*range(0, samples, tile), samples]
    return [message[rows * a : rows * b].reshape(rows, b - a) for a, b in zip(ends[:-1], ends[1:], strict=True)]


def _moves(tiles: Tiles, columns: Array, targets: Sequence[Array]) -> Iterator[tuple[Array, Array, Array, int]]:
    """From which panel which columns go to which target, and from which of its columns on."""
    tile = tiles.tile
    for j, target in enumerate(targets):
        wanted, at = columns[j * tile : (j + 1) * tile], 0
        for t in np.unique(wanted // tile).tolist():
            cut = wanted[wanted // tile == t] - t * tile
            yield tiles.panels[t], cut, target, at
            at += cut.size
