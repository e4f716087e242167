"""The order of input panels, checked layer by layer, and the communication plan that follows from it.

Panels are read a window at a time, of all parts side by side, so that one pass over the store's ids serves all layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dasksdnn.network import Array
from dasksdnn.plan.comm import CommPlan, LayerExchange, exchange
from dasksdnn.store.blocks import Order

if TYPE_CHECKING:
    from dasksdnn.store.reader import Store


@dataclass(frozen=True, slots=True)
class Panels:
    """What enters one layer: who owns it, in which order, and the global ids of every part's input panel."""

    layer: int
    order: Order
    columns: tuple[Array, ...]

    def received(self) -> tuple[list[Array], list[tuple[int, str]]]:
        """What each part receives, as part-major positions, and the faults (part, what) that were found."""
        position = self.order.position
        received, faults = [], []
        for part, (columns, own) in enumerate(zip(self.columns, self.order.members, strict=True)):
            positions = position[columns[own.size :]]
            received.append(positions)
            if not np.array_equal(columns[: own.size], own):
                faults.append((part, "the part's own neurons do not stand first, in the order of its rows before"))
            elif (self.order.owner[columns[own.size :]] == part).any():
                faults.append((part, "a neuron of the part's own stands among those that it receives"))
            elif (np.diff(positions) <= 0).any():
                faults.append((part, "what is received does not stand sender by sender, in each sender's order, once"))
        return received, faults

    def exchange(self, store: Store) -> LayerExchange:
        """What the parts of a store exchange before the layer.

        Raises
        ------
        CorruptStoreError
            The panels are not in the order that the format asks for.
        """
        received, faults = self.received()
        for part, what in faults:
            raise store.fault(part, self.layer, "columns", what)
        return exchange(np.array([members.size for members in self.order.members], np.int64), received)


def panels(store: Store) -> Iterator[Panels]:
    """The input panels of each layer in turn.

    Raises
    ------
    CorruptStoreError
        An array is damaged, or the parts' rows do not make up a layer.
    """
    parts = [_ids(store, part) for part in range(store.nparts)]
    order = store.order(0)
    for k in range(len(store)):
        rows, columns = zip(*(next(ids) for ids in parts), strict=True)
        yield Panels(k, order, columns)
        order = store.as_order(k + 1, rows)


def comm_plan(store: Store) -> CommPlan:
    """See `Store.comm_plan`."""
    return CommPlan(tuple(panel.exchange(store) for panel in panels(store)))


def _ids(store: Store, part: int) -> Iterator[tuple[Array, Array]]:
    """Rows and columns (global ids) of a part's blocks, layer by layer."""
    for window in store.windows(part):
        extents = store.extents(window)
        rows = store.array(window, "rows").read()
        columns = store.array(window, "columns").read()
        for k, extent in enumerate(extents, start=window.first):
            ids = columns[slice(*extent.columns)]
            if ids.size and int(ids.max()) >= store.widths[k]:
                raise store.fault(part, k, "columns", "a neuron that its input has not is named")
            yield rows[slice(*extent.rows)].astype(np.int64), ids.astype(np.int64)
