"""The communication plan: which entries of an activation each part sends to which, as immutable arrays.

Number the neurons that enter a layer part by part, each part's own in its order: that is the part-major order. The input
panel of part p is what it owns, then what it receives, in part-major order, so that messages laid end to end are it:

    panel of p:   [ own values of p | from part 0 | from part 1 | ... ]
                                      ^ start[m], of message m from part 0 to part p

    expand:   owners[m] --panel[idx]--> users[m], into its panel[start : start + words]
    fold:     users[m] --panel[start : start + words]--> owners[m], added to its panel[idx], in sender order

A fold is the same arrays read the other way round. A message is never empty; its words times the samples of a batch
cross, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dasksdnn.errors import InputError
from dasksdnn.network import Array


@dataclass(frozen=True, slots=True, eq=False)
class LayerExchange:
    """What is exchanged before one layer is computed (or, reversed, after its transposed product).

    The arrays are read-only. Messages are listed by owner, then by user.

    Attributes
    ----------
    own : int array of shape (nparts,)
        Neurons that each part owns at the layer's input.
    owners, users : int arrays of shape (messages,)
        Message m carries neurons that part `owners[m]` owns and part `users[m]` uses.
    ptr : int array of shape (messages + 1,)
        Message m has the words `ptr[m]` to `ptr[m + 1]` of `idx`.
    idx : int array of shape (words,)
        Positions among the owner's own neurons, ascending within a message.
    start : int array of shape (messages,)
        Where the message begins in the user's input panel.
    reversed : bool
        False: an expand, from owners to users. True: a fold, from users to owners.
    """

    own: Array
    owners: Array
    users: Array
    ptr: Array
    idx: Array
    start: Array
    reversed: bool = False

    @property
    def nparts(self) -> int:
        """Number of parts."""
        return int(self.own.size)

    @property
    def volume(self) -> int:
        """Words sent per sample."""
        return int(self.idx.size)

    @property
    def messages(self) -> int:
        """Non-empty ordered pairs of parts."""
        return int(self.owners.size)

    def panel_size(self, part: int) -> int:
        """Entries of a part's input panel: what it owns, and what it receives in an expand."""
        return int(self.own[part] + np.diff(self.ptr)[self.users == part].sum())

    def sends(self, part: int) -> list[tuple[int, Array | slice]]:
        """Each receiver of a message from `part`, ascending, and which entries of the part's panel it gets."""
        return self._used(part) if self.reversed else self._owned(part)

    def receives(self, part: int) -> list[tuple[int, Array | slice]]:
        """Each sender of a message to `part`, ascending, and where it goes in the part's panel (is added, in a fold)."""
        return self._owned(part) if self.reversed else self._used(part)

    def _owned(self, part: int) -> list[tuple[int, Array | slice]]:
        mine = np.flatnonzero(self.owners == part).tolist()
        return [(int(self.users[m]), self.idx[self.ptr[m] : self.ptr[m + 1]]) for m in mine]

    def _used(self, part: int) -> list[tuple[int, Array | slice]]:
        mine = np.flatnonzero(self.users == part).tolist()
        words = np.diff(self.ptr)
        return [(int(self.owners[m]), slice(int(self.start[m]), int(self.start[m] + words[m]))) for m in mine]

    def received(self, part: int) -> Array:
        """What a part receives in an expand, as ascending part-major positions."""
        first = np.cumsum(self.own) - self.own
        ids = [
            self.idx[self.ptr[m] : self.ptr[m + 1]] + first[self.owners[m]] for m in np.flatnonzero(self.users == part)
        ]
        return np.concatenate([np.zeros(0, np.int64), *ids])

    def sent(self) -> Array:
        """Words sent per sample, int64 of shape (nparts, nparts): [sender, receiver] in the exchange's direction."""
        matrix = np.zeros((self.nparts, self.nparts), np.int64)
        matrix[self.owners, self.users] = np.diff(self.ptr)
        return matrix.T if self.reversed else matrix

    def reverse(self) -> LayerExchange:
        """The same messages in the other direction: expand becomes fold, and the reverse."""
        return replace(self, reversed=not self.reversed)

    def coarsen(self, part_to_owner: Sequence[int] | Array) -> LayerExchange:
        """The exchange between owners of several parts; see `CommPlan.coarsen`."""
        to = _check_map(part_to_owner, self.nparts)
        position = self.coarse_positions(to)
        ends = np.cumsum(self.own)
        own = np.bincount(to, weights=self.own).astype(np.int64)
        received = []
        for owner in range(own.size):
            mine = np.flatnonzero(to == owner).tolist()
            needed = position[np.concatenate([np.zeros(0, np.int64), *map(self.received, mine)])]
            inside = (
                position[np.concatenate([np.arange(ends[p] - self.own[p], ends[p]) for p in mine])]
                if mine
                else needed[:0]
            )
            received.append(np.setdiff1d(needed, inside))
        return replace(exchange(own, received), reversed=self.reversed)

    def coarse_positions(self, part_to_owner: Sequence[int] | Array) -> Array:
        """Owner-major position of each neuron, by its part-major position, when owners hold parts one after the other."""
        to = _check_map(part_to_owner, self.nparts)
        position: Array = np.empty(int(self.own.sum()), np.int64)
        position[np.argsort(np.repeat(to, self.own), kind="stable")] = np.arange(position.size)
        return position


@dataclass(frozen=True, slots=True, eq=False)
class CommPlan:
    """The exchanges of all layers; immutable, the same for every batch.

    Attributes
    ----------
    layers : tuple of LayerExchange
        One a layer, in the order in which the layers are computed (backwards where reversed). The first exchanges
        inputs, which an engine whose parts all read the dataset leaves out.
    """

    layers: tuple[LayerExchange, ...]

    @property
    def nparts(self) -> int:
        """Number of parts."""
        return self.layers[0].nparts

    @property
    def volume(self) -> int:
        """Words sent per sample over all layers."""
        return sum(layer.volume for layer in self.layers)

    @property
    def messages(self) -> int:
        """Messages over all layers."""
        return sum(layer.messages for layer in self.layers)

    def reverse(self) -> CommPlan:
        """The folds of backprop: the same arrays, layers and directions reversed."""
        return CommPlan(tuple(layer.reverse() for layer in reversed(self.layers)))

    def coarsen(self, part_to_owner: Sequence[int] | Array) -> CommPlan:
        """The plan between owners of several parts: what they share is sent once, what stays inside one is not sent.

        Parameters
        ----------
        part_to_owner : int array of shape (nparts,)
            The owner (0, 1, ...) of each part. An owner holds its parts' neurons one part after the other; its panel is
            what it owns, then what it receives, as a part's is.
        """
        return CommPlan(tuple(layer.coarsen(part_to_owner) for layer in self.layers))


def words_between(plan: CommPlan) -> Array:
    """Words that engines send for a sample, int64 of shape (nparts, nparts), [sender, receiver]: of all layers but the first,
    whose inputs every part reads.
    """
    between: Array = np.zeros((plan.nparts, plan.nparts), np.int64)
    for layer in plan.layers[1:]:
        between += layer.sent()
    return between


def exchange(own: Array, received: Sequence[Array]) -> LayerExchange:
    """Make one layer's exchange.

    Parameters
    ----------
    own : int array of shape (nparts,)
        Neurons that each part owns.
    received : sequence of int arrays
        For each part, what it needs of the others: ascending part-major positions.
    """
    ends = np.cumsum(own)
    users = np.repeat(np.arange(len(received)), [ids.size for ids in received])
    ids = np.concatenate([np.zeros(0, np.int64), *received])
    # The one part that holds a position ends behind it; parts that own nothing end with the part before.
    owners = np.searchsorted(ends, ids, "right")
    in_panel = np.concatenate([np.zeros(0, np.int64), *(own[p] + np.arange(r.size) for p, r in enumerate(received))])
    order = np.argsort(owners, kind="stable")  # by owner, then user, then position
    owners, users, ids, in_panel = owners[order], users[order], ids[order], in_panel[order]
    first = np.flatnonzero(np.diff(owners * np.int64(len(received)) + users, prepend=-1))
    return LayerExchange(
        own=_frozen(own),
        owners=_frozen(owners[first]),
        users=_frozen(users[first]),
        ptr=_frozen(np.append(first, ids.size)),
        idx=_frozen(ids - (ends - own)[owners]),
        start=_frozen(in_panel[first]),
    )


def _frozen(values: Array) -> Array:
    copy = np.array(values, np.int64)
    copy.flags.writeable = False
    return copy


def _check_map(part_to_owner: Sequence[int] | Array, nparts: int) -> Array:
    to = np.asarray(part_to_owner)
    if to.shape != (nparts,) or to.dtype.kind not in "iu" or int(to.min()) < 0:
        raise InputError(
            f"part_to_owner has shape {to.shape}, dtype {to.dtype}: give an owner from 0 up for each of {nparts} parts"
        )
    return to.astype(np.int64)
