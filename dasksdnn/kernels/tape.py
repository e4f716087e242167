"""What backprop keeps of a batch: panels of every layer's input and output, the deltas on their way, and what dropout drops.

    held:   x_0 | x_1 | ... | x_L       for each tile of samples: panels (neurons, tile) end to end
    deltas: delta_k at k mod 3          while one thread reads delta_k+1 and delta_k, another may write delta_k-1

Dropout is a function of (key, layer, neuron, sample): nothing is kept of it, and backprop computes it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dasksdnn.compiling import compiled
from dasksdnn.kernels.panels import LANES, new_panel
from dasksdnn.network import Array

#: Deltas that stand at once.
DELTAS = 3


@dataclass(frozen=True, slots=True)
class Tape:
    """Panels of a batch: tiles of samples, and where in each tile's memory the input and outputs of each layer stand.

    Attributes
    ----------
    held : array of shape (tiles, entries)
        Each layer's panel is contiguous in it.
    at : int64 array of shape (layers + 1,)
        Where x_k begins in a tile's memory; a layer that is not kept shares its place with others.
    widths : int64 array of shape (layers + 1,)
    deltas : array of shape (tiles, 3 * widest * tile)
    dropped : array of shape (tiles, 2 * widest * tile), empty where nothing is dropped
    tile : int
        Samples of a tile, a multiple of `LANES`.
    """

    held: Array
    at: Array
    widths: Array
    deltas: Array
    dropped: Array
    tile: int

    @property
    def samples(self) -> int:
        """How many it holds at most."""
        return int(self.held.shape[0]) * self.tile

    @property
    def pitch(self) -> int:
        """Entries of a delta's panel."""
        return int(self.deltas.shape[1]) // DELTAS

    def panel(self, tile: int, k: int) -> Array:
        """View x_k of a tile, of shape (neurons, tile)."""
        panel: Array = panel_of(self.held, tile, int(self.at[k]), int(self.widths[k]), self.tile)
        return panel

    def delta(self, tile: int, k: int) -> Array:
        """View delta_k of a tile, of shape (neurons, tile)."""
        panel: Array = panel_of(self.deltas, tile, k % DELTAS * self.pitch, int(self.widths[k]), self.tile)
        return panel


def new_tape(
    widths: Sequence[int], at: Sequence[int], entries: int, tile: int, tiles: int, dtype: Any, dropping: bool
) -> Tape:
    """Allocate a tape; see `Tape`. `entries` is in neurons: panels of so many rows in all."""
    widest = max(widths)
    held = new_panel(tiles, entries * tile, dtype)
    deltas = new_panel(tiles, DELTAS * widest * tile, dtype)
    dropped = new_panel(tiles, 2 * widest * tile if dropping else 0, dtype)
    return Tape(held, np.array(at, np.int64) * tile, np.array(widths, np.int64), deltas, dropped, tile)


@dataclass(frozen=True, slots=True)
class Dropout:
    """Which outputs of hidden layers are set to zero; the others are multiplied by 1 / (1 - rate).

    Attributes
    ----------
    rate : float
        Their share; 0 drops nothing.
    key : int
        Of a step: outputs are dropped by (key, layer, neuron, sample).
    first : int
        Number in its batch of the tape's first sample.
    """

    rate: float = 0.0
    key: int = 0
    first: int = 0

    def numbers(self) -> Array:
        """What the kernels need: the key, what a draw must reach to be kept, and the first sample."""
        return np.array([self.key % (1 << 64), round(self.rate * (1 << 32)), self.first], np.uint64)


@compiled
def panel_of(held, tile, at, rows, width):  # type: ignore[no-untyped-def]
    return held[tile, at : at + rows * width].reshape(rows, width)


@compiled
def columns_of(samples, tile, width):  # type: ignore[no-untyped-def]
    """Columns of a tile that are computed: its samples, up to whole vectors."""
    left = min(width, samples - tile * width)
    return (left + LANES - 1) // LANES * LANES


@compiled
def _keeps(numbers, layer, neuron, sample):  # type: ignore[no-untyped-def]
    """Whether an output is kept: 32 bits of a mixed counter (splitmix64) reach the rate."""
    z = (
        numbers[0]
        + np.uint64(layer) * np.uint64(0xD1342543DE82EF95)
        + np.uint64(neuron) * np.uint64(0x9E3779B97F4A7C15)
    )
    z ^= z >> np.uint64(32)
    z = (z + np.uint64(sample)) * np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(29)
    z *= np.uint64(0x94D049BB133111EB)
    return z >> np.uint64(32) >= numbers[1]


@compiled
def drop(numbers, scale, ids, layer, first, last, start, columns, x, out):  # type: ignore[no-untyped-def]
    """Rows `first` to `last` of x into `out`, dropped or scaled; may be in place."""
    for i in range(first, last):
        source, target = x[i], out[i]
        for s in range(columns):
            kept = _keeps(numbers, layer, ids[i], start + np.uint64(s))
            target[s] = source[s] * scale if kept else source[s] - source[s]


@compiled
def drop_input(tape, at, rows, tile, samples, layer, dropped, numbers, scale, ids, member, members):  # type: ignore[no-untyped-def]
    """Drop a member's share of x_layer, in all tiles."""
    pitch = dropped.shape[1] // 2
    low, high = rows * member // members, rows * (member + 1) // members
    for tau in range(tape.shape[0]):
        if tau * tile < samples:
            x = panel_of(tape, tau, at, rows, tile)
            out = panel_of(dropped, tau, layer % 2 * pitch, rows, tile)
            start = numbers[2] + np.uint64(tau * tile)
            drop(numbers, scale, ids, layer, low, high, start, columns_of(samples, tau, tile), x, out)
