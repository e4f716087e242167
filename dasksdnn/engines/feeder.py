"""From a dataset to panels: blocks are read one at a time, in order, and cut into tiles; the budget knows two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from dasksdnn.kernels.panels import fill_csr, fill_dense
from dasksdnn.network import Array
from dasksdnn.plan.memory import Settings
from dasksdnn.sources.blocks import check_finite


@dataclass(frozen=True, slots=True)
class Tile:
    """Samples `start` to `stop` of the dataset, and the block (from sample `base` on) that holds them."""

    start: int
    stop: int
    base: int
    block: Any


class Feeder:
    """Cut a dataset into tiles. `next` is called under a lock; `fill` by many threads at once."""

    def __init__(self, dataset: Any, settings: Settings, dtype: np.dtype[Any]) -> None:
        self._dataset, self._settings, self._dtype = dataset, settings, dtype
        self._at = self._base = self._end = 0
        self._block: Any = None

    @property
    def more(self) -> bool:
        """Whether samples are left."""
        return self._at < int(self._dataset.samples)

    def next(self) -> Tile | None:
        """The next tile, reading a block where the last one is used up."""
        if not self.more:
            return None
        if self._at >= self._end:
            self._block = None
            self._base, end = self._at, min(self._at + self._settings.rows, self._dataset.samples)
            self._block = self._checked(self._dataset.read(self._base, end))
            self._end = end  # only now: after a failed read, another thread must not cut tiles from no block
        start, stop = self._at, min(self._at + self._settings.tile, self._end)
        self._at = stop
        return Tile(start, stop, self._base, self._block)

    def fill(self, tile: Tile, panel: Array) -> None:
        """Write a tile's samples into the columns of a panel."""
        first, last = tile.start - tile.base, tile.stop - tile.base
        if scipy.sparse.issparse(tile.block):
            fill_csr(panel, tile.block.shape[1], tile.block.indptr, tile.block.indices, tile.block.data, first, last)
        else:
            fill_dense(panel, tile.block[first:last])

    def _checked(self, block: Any) -> Any:
        """The block in the network's dtype; what is too large for it is refused, as what is not finite is."""
        with np.errstate(over="ignore"):
            if scipy.sparse.issparse(block):
                block = block if block.dtype == self._dtype else block.astype(self._dtype)
            else:
                block = np.require(block, self._dtype, ["C", "W"])
        return check_finite(block, self._dataset.name, getattr(self._dataset, "first", 0) + self._base)
