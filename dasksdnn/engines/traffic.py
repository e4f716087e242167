"""What ranks sent each other, and what that took, by rank, direction and layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dasksdnn.engines.exchange import Grid
from dasksdnn.engines.transport import gather
from dasksdnn.kernels.routes import COMPUTING, MESSAGES, PACKING, WAITING, WORDS
from dasksdnn.network import Array


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """Exchanges of a run.

    Attributes
    ----------
    tally : int64 array of shape (ranks, 3, layers + 1, 5)
        Forward (before a layer), back, and sums of gradients over replicas (at the first of layers that are summed together);
        words and messages sent, nanoseconds of packing, waiting, and computing.
    itemsize : int
        Bytes of a word.
    """

    tally: Array
    itemsize: int

    @property
    def words(self) -> Array:
        """Sent by each rank at each layer, forward, back, and in sums: shape (ranks, 3, layers)."""
        return self._of(WORDS)

    @property
    def messages(self) -> Array:
        """Sent by each rank at each layer, forward, back, and in sums: shape (ranks, 3, layers)."""
        return self._of(MESSAGES)

    def seconds(self, kind: int) -> Array:
        """Of packing, waiting or computing, shape (ranks, 3, layers)."""
        return self._of(kind) / 1e9

    def _of(self, kind: int) -> Array:
        values: Array = self.tally[:, :, :-1, kind]
        return values

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON: for each rank and direction, a list by layer of each figure."""
        return {
            "bytes": (self.words * self.itemsize).tolist(),
            "messages": self.messages.tolist(),
            "pack_seconds": self.seconds(PACKING).tolist(),
            "wait_seconds": self.seconds(WAITING).tolist(),
            "compute_seconds": self.seconds(COMPUTING).tolist(),
        }

    HEADER = ("rank", "sent MB", "messages", "compute s", "wait s", "pack s")

    def rows(self) -> list[tuple[str, ...]]:
        """A table: one line a rank."""
        return [
            (
                str(rank),
                f"{self.words[rank].sum() * self.itemsize / 1e6:,.2f}",
                f"{self.messages[rank].sum():,}",
                f"{self.seconds(COMPUTING)[rank].sum():.3f}",
                f"{self.seconds(WAITING)[rank].sum():.3f}",
                f"{self.seconds(PACKING)[rank].sum():.3f}",
            )
            for rank in range(len(self.tally))
        ]


def gather_traffic(grid: Grid, tally: Array, itemsize: int) -> Traffic:
    """The traffic of all ranks, at each of them."""
    return Traffic(np.stack(gather(grid.transport, tally)), itemsize)
