"""What one owner holds of a store: some of its parts, and what it exchanges with the other owners before each layer.

    input panel of layer k:   [ what the owner's parts own | from owner 0 | from owner 1 | ... ]

An owner of all parts exchanges nothing: that is the local engine. The first layer reads the dataset, so its panel holds all
inputs, in the dataset's order, and nothing is exchanged before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dasksdnn.network import Array
from dasksdnn.plan.comm import LayerExchange
from dasksdnn.store.panels import Panels, panels
from dasksdnn.store.reader import Store


@dataclass(frozen=True, slots=True, eq=False)
class Crossing:
    """What an owner exchanges before one layer.

    Attributes
    ----------
    own : int
        Neurons that it owns at the layer's input: the first rows of its panel.
    received : uint32 array
        The neurons behind them, in the network's numbering.
    sends : tuple of (owner, int array)
        Receivers, ascending, and the rows of the panel that each gets (in a fold, that are added to).
    receives : tuple of (owner, first, last)
        Senders, ascending, and the rows of the panel that each fills (in a fold, that go back).
    """

    own: int
    received: Array
    sends: tuple[tuple[int, Array], ...] = ()
    receives: tuple[tuple[int, int, int], ...] = ()

    @property
    def panel(self) -> int:
        """Rows of the panel."""
        return self.own + int(self.received.size)

    @property
    def words(self) -> int:
        """Sent per sample in an expand."""
        return sum(int(rows.size) for _, rows in self.sends)


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """The parts of one owner.

    Attributes
    ----------
    store : Store
    owner, owners : int
        Which one of how many.
    parts : tuple of int
        What it holds, ascending.
    crossings : tuple of Crossing
        Before each layer; the first one's panel is the dataset's.
    meets : tuple of int
        Layers (0-based) before which anyone exchanges anything, ascending.
    """

    store: Store
    owner: int
    owners: int
    parts: tuple[int, ...]
    crossings: tuple[Crossing, ...]
    meets: tuple[int, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Rows of each layer's input panel, and of the last layer's outputs."""
        return (*(c.panel for c in self.crossings), self.outputs)

    @property
    def outputs(self) -> int:
        """Neurons of the last layer that it owns."""
        return int(np.isin(self.store.owner[-1], self.parts).sum())

    def stages(self, first: int, last: int) -> list[tuple[int, int]]:
        """Cut layers `first` to `last` where anyone exchanges anything."""
        return list(pairwise([first, *(k for k in self.meets if first < k < last), last]))

    def rows(self, k: int) -> Array:
        """Neurons of layer `k` (0-based) that it computes, in the panel's order."""
        return np.concatenate([np.empty(0, np.int64), *(self.store.rows(part, k) for part in self.parts)])

    def panel(self, k: int) -> Array:
        """Neurons of the input panel of layer `k` (0-based), in its order."""
        if k == 0:
            return np.arange(self.store.widths[0])
        return np.concatenate([self.rows(k - 1), self.crossings[k].received])


def whole(store: Store) -> Share:
    """The share of an owner of all parts."""
    none = np.empty(0, np.uint32)
    crossings = tuple(Crossing(width, none) for width in store.widths[:-1])
    return Share(store, 0, 1, tuple(range(store.nparts)), crossings, ())


def share_of(store: Store, part_to_owner: Sequence[int], owner: int) -> Share:
    """What an owner holds.

    Parameters
    ----------
    store : Store
    part_to_owner : sequence of int, of shape (nparts,)
        The owner (0, 1, ...) of each part.
    owner : int

    Raises
    ------
    CorruptStoreError
        The parts' rows and columns do not fit each other.
    """
    to = np.asarray(part_to_owner, np.int64)
    owners = int(to.max()) + 1
    if owners == 1:
        return whole(store)
    crossings, meets = [Crossing(store.widths[0], np.empty(0, np.uint32))], []
    for panel in panels(store):
        fine = panel.exchange(store)
        if panel.layer == 0:
            continue
        crossings.append(_crossing(panel, fine, to, owner))
        if _meets(fine, to):
            meets.append(panel.layer)
    return Share(store, owner, owners, tuple(np.flatnonzero(to == owner).tolist()), tuple(crossings), tuple(meets))


def spread(loads: Sequence[int], owners: int) -> list[int]:
    """Give parts to owners so that loads are even: the heaviest part first, each to the lightest owner.

    Parameters
    ----------
    loads : sequence of int
        Of each part, such as its weights.
    owners : int
        At most as many as parts.

    Returns
    -------
    list of int
        The owner of each part; every owner has one.
    """
    held, to = [(0, owner) for owner in range(owners)], [0] * len(loads)
    for part in sorted(range(len(loads)), key=lambda p: (-loads[p], p)):
        load, owner = min(held)
        # A part without weights counts for one, so that no owner stays without a part.
        held[owner] = (load + max(1, loads[part]), owner)
        to[part] = owner
    return to


def grouped(store: Store, owners: int) -> tuple[int, ...]:
    """Give a store's parts to owners so that loads are even and little crosses between them.

    Parts that send each other much go to one owner: from an even start, pairs of parts change places, and parts move where
    the loads allow it, as long as fewer words cross. What two parts of one owner need of a third counts twice here; the plan
    sends it once.

    Parameters
    ----------
    store : Store
    owners : int
        At most as many as parts.

    Returns
    -------
    tuple of int
        The owner of each part.
    """
    if owners == 1 or owners == store.nparts:
        return tuple(part * (owners > 1) for part in range(store.nparts))
    loads = store.block_nonzeros().sum(axis=0)
    words = np.sum([layer.sent() for layer in store.comm_plan().layers[1:]], axis=0) if len(store) > 1 else 0
    words = words + np.zeros((store.nparts, store.nparts), np.int64)
    words = words + words.T
    to = np.array(spread(loads.tolist(), owners))
    most = max(int(np.bincount(to, weights=loads).max()), int(1.03 * loads.sum() / owners))
    better: Array | None = to
    while better is not None:
        to, better = better, None
        for changed in _changes(to):
            fits = np.bincount(changed, weights=loads, minlength=owners).max() <= most
            if (
                fits
                and np.unique(changed).size == owners
                and _crossing_words(words, changed) < _crossing_words(words, to)
            ):
                better = changed
                break
    return tuple(to.tolist())


def _changes(to: Array) -> Iterator[Array]:
    """Owners where one part moves to another's owner, or both change places."""
    for a in range(to.size):
        for b in range(to.size):
            if to[a] != to[b]:
                changed = to.copy()
                changed[a] = to[b]
                if a < b:
                    changed[b] = to[a]
                yield changed


def _crossing_words(words: Array, to: Array) -> int:
    return int(words[to[:, None] != to].sum())


def _meets(fine: LayerExchange, to: Array) -> bool:
    return bool((to[fine.owners] != to[fine.users]).any())


def _crossing(panel: Panels, fine: LayerExchange, to: Array, owner: int) -> Crossing:
    coarse = fine.coarsen(to)
    ids: Array = np.empty(panel.order.owner.size, np.uint32)
    ids[fine.coarse_positions(to)] = np.concatenate(panel.order.members)
    return Crossing(
        int(coarse.own[owner]),
        ids[coarse.received(owner)],
        tuple((to, np.asarray(rows)) for to, rows in coarse.sends(owner)),
        tuple((sender, rows.start, rows.stop) for sender, rows in coarse.receives(owner) if isinstance(rows, slice)),
    )
