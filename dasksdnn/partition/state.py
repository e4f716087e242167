"""Consecutive layers being refined: their hypergraphs in flat arrays, who is in which part, and what each net counts.

    layer k:  vertices      clumps of rows with the same columns; rows with no nonzeros, one by one
              reads         nets of its columns: who owns the neuron (a vertex of layer k - 1), how many of its
                            readers are in each part; words: parts that read it, but the owner's
              owns          the same nets of layer k + 1, by the vertices of layer k that own them

So moving a vertex changes `readers` of the nets that it reads and `owner` of the nets that it owns, and nothing else.
Outside the layers being refined all owners are fixed: they are in `owner` of the first layer, and in `readers` of the
nets behind the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from dasksdnn.network import Array
from dasksdnn.partition.anneal import alignment, renamed, traffic_of, words_sent
from dasksdnn.partition.balance import allowed, capacity
from dasksdnn.partition.hypergraph import clumps, merge_nets
from dasksdnn.partition.relabel import touches

#: Most of the readers that a net may have, so that they are counted in 16 bits.
_SHORT = np.iinfo(np.uint16).max


@dataclass(slots=True, eq=False)
class Nets:
    """One layer's nets, by column; columns with the same owner and the same readers are one."""

    #: int64 (vertices + 1,), int32: the nets that each vertex of the layer reads.
    ptr: Array
    nets: Array
    #: int32 (nets,): words that each part that reads it needs.
    cost: Array
    #: int32 (nets,): the part of the owner; -1 in the first layer, whose inputs follow their readers.
    owner: Array
    #: uint16 or int32 (nets, nparts): vertices that read it, or only whether there are any.
    readers: Array
    #: int64 (nets,): the vertex of the layer before that owns it; -1 where that is not being refined.
    vertex: Array

    @property
    def reads(self) -> tuple[Array, ...]:
        """As the kernels take them, for the vertices that read."""
        return self.ptr, self.nets, self.cost, self.owner, self.readers

    def with_readers(self, part: Array, nparts: int) -> Nets:
        """The same nets, read by vertices of other parts."""
        nets = replace(self, readers=np.empty((self.cost.size, nparts), self.readers.dtype))
        _count(nets, part)
        return nets

    def with_owners(self, part: Array) -> Nets:
        """The same nets, owned by vertices of other parts."""
        return replace(self, owner=part[self.vertex].astype(np.int32))

    def owned_by(self, vertices: int) -> tuple[Array, Array]:
        """The nets that each vertex of the layer before owns: int64 (vertices + 1,), int32."""
        count = np.bincount(self.vertex[self.vertex >= 0], minlength=vertices)
        order = np.argsort(self.vertex, kind="stable")[self.vertex.size - count.sum() :]
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(count)]), order.astype(np.int32)


@dataclass(slots=True, eq=False)
class Layer:
    """One layer being refined."""

    #: int64 (rows,): the vertex of each row.
    vertex_of_row: Array
    #: int64 (vertices,): nonzeros, and the part, which refinement changes.
    weight: Array
    part: Array
    #: int64 (nparts,): nonzeros in each part, and the most there may be.
    load: Array
    cap: int
    nets: Nets
    #: As the kernels take them: the nets of the next layer by the vertices that own them.
    owns: tuple[Array, ...]
    #: uint64 (1,): random state.
    random: Array

    @property
    def rows(self) -> Array:
        """The part of each row, int64."""
        part: Array = self.part[self.vertex_of_row]
        return part


class Layers:
    """Consecutive layers of a network, ready to be refined.

    Parameters
    ----------
    weights : sequence of csr_array
        The layers to refine, and the one behind them where the network goes on.
    owner : sequence of int arrays
        As many and one: the part of each input of the first (None where that is the network's first layer), then of the
        rows of each.
    nparts : int
    epsilon : float
    costs : sequence of int
        Words that a word of each of `weights` counts as.
    seeds : sequence of int
        One for each layer to refine.
    behind : bool
        Whether the last of `weights` is only there for its columns.
    fraction : float
        Of a part's average nonzeros: rows with the same columns, and of the same part, are one vertex up to this weight.
    """

    def __init__(
        self,
        weights: Sequence[Any],
        owner: Sequence[Array | None],
        nparts: int,
        epsilon: float,
        costs: Sequence[int],
        seeds: Sequence[int],
        behind: bool,
        fraction: float,
    ) -> None:
        self.nparts = nparts
        refined = len(weights) - behind
        self.layers: list[Layer] = []
        before: Array | None = None
        for k in range(refined):
            rows = owner[k + 1]
            assert rows is not None
            vertex_of_row, first = _vertices(weights[k], rows, weights[k].nnz / nparts * fraction)
            nonzeros = np.diff(weights[k].indptr).astype(np.int64)
            part = rows[first].astype(np.int64)
            weight = np.bincount(vertex_of_row, nonzeros, first.size).astype(np.int64)
            nets = _nets(weights[k][first], part, owner[k], before, nparts, costs[k])
            load = np.bincount(part, weight, nparts).astype(np.int64)
            limit = allowed(nonzeros, nparts, epsilon)
            self.layers.append(
                Layer(
                    vertex_of_row,
                    weight,
                    part,
                    load,
                    limit if load.max() <= limit else capacity(nonzeros, nparts, epsilon),
                    nets,
                    (),
                    np.array(
                        [np.random.SeedSequence(seeds[k]).generate_state(1, np.uint64)[0] | np.uint64(1)], np.uint64
                    ),
                )
            )
            before = vertex_of_row
        self.behind = _nets_behind(weights[-1], owner[-1], owner[-2], before, nparts, costs[-1]) if behind else None
        for k, layer in enumerate(self.layers):
            nets = self._behind(k) or _no_nets(nparts)
            ptr, order = nets.owned_by(layer.weight.size)
            layer.owns = (ptr, order, nets.cost, nets.owner, nets.readers)

    def _behind(self, k: int) -> Nets | None:
        """The nets that layer k's vertices own."""
        return self.layers[k + 1].nets if k + 1 < len(self.layers) else self.behind

    @property
    def vertices(self) -> int:
        """Of all layers."""
        return sum(layer.weight.size for layer in self.layers)

    @property
    def overload(self) -> int:
        """Nonzeros above what a part may hold, of the worst part and layer."""
        return max(0, *(int(layer.load.max()) - layer.cap for layer in self.layers), 0)

    def sent(self) -> list[int]:
        """Words that each layer's readers, and those of the layer behind, need from other parts, by its cost."""
        nets = [layer.nets for layer in self.layers] + ([self.behind] if self.behind else [])
        return [int(words_sent(n.reads)) for n in nets]

    def traffic(self, k: int, message: float) -> tuple[Array, Array]:
        """What the parts send each other before layer k (of `sent`), and what each sends, messages as so many words."""
        send = np.zeros((self.nparts, self.nparts), np.int64)
        nets = self.layers[k].nets if k < len(self.layers) else self.behind
        if nets is not None:
            traffic_of(nets.reads, send)
        return send, (send.sum(axis=1) + message * np.count_nonzero(send, axis=1)).astype(np.float64)

    def save(self) -> list[Array]:
        """The parts of all vertices."""
        return [layer.part.copy() for layer in self.layers]

    def restore(self, saved: list[Array]) -> None:
        """Go back to saved parts."""
        for k, (layer, part) in enumerate(zip(self.layers, saved, strict=True)):
            layer.part[:] = part
            layer.load[:] = np.bincount(part, layer.weight, self.nparts)
            _count(layer.nets, part)
            if nets := self._behind(k):
                owned = nets.vertex >= 0
                nets.owner[owned] = part[nets.vertex[owned]]

    def rename(self, first: int, last: int) -> int:
        """Name the parts of layers first to last - 1 anew, alike in all of them, so that least is sent; words saved.

        Only what is sent into the first and out of the last depends on the names, so the best ones are an assignment.
        """
        shared = np.zeros((self.nparts, self.nparts), np.int64)
        alignment(self.layers[first].nets.reads, shared)
        if nets := self._behind(last - 1):
            out = np.zeros_like(shared)
            alignment(nets.reads, out)
            shared += out.T
        _, name = linear_sum_assignment(shared, maximize=True)
        saved = int(shared[np.arange(self.nparts), name].sum() - np.trace(shared))
        if saved <= 0:
            return 0
        for k in range(first, last):
            layer = self.layers[k]
            layer.part[:] = name[layer.part]
            layer.load[name] = layer.load.copy()
            renamed(layer.nets.readers, name)
            if nets := self._behind(k):
                owned = nets.vertex >= 0
                nets.owner[owned] = name[nets.owner[owned]]
        return saved

    def recombine(self, found: Sequence[Sequence[Array]]) -> list[Array]:
        """The best network-wide choice of one of the found parts for each layer, named so that least is sent.

        A layer's words depend on its own parts and on those of the layer before, up to their names, which are an
        assignment; so this is a shortest path through the layers.

        Parameters
        ----------
        found : sequence of what `save` returned

        Returns
        -------
        list of int64 arrays
            As of `save`.
        """
        words = np.zeros(len(found))
        named: list[list[Array]] = []
        came: list[list[int]] = []
        for k, layer in enumerate(self.layers):
            before, best, step = words, [], []
            words = np.empty(len(found))
            for c in range(len(found)):
                part = found[c][k]
                nets = layer.nets.with_readers(part, self.nparts)
                read = int((nets.cost * np.count_nonzero(nets.readers, axis=1)).sum())
                owners = [parts[nets.vertex] for parts in named[-1]] if k else [nets.owner]
                names, saved = zip(*(_best_names(nets, owner, self.nparts) for owner in owners), strict=True)
                through = np.array(before[: len(owners)]) - saved
                b = int(through.argmin())
                words[c] = read + through[b]
                best.append(names[b][part])
                step.append(b)
            named.append(best)
            came.append(step)
        if self.behind is not None:
            words = words + [words_sent(self.behind.with_owners(parts).reads) for parts in named[-1]]
        c = int(words.argmin())
        chosen = []
        for best, step in zip(reversed(named), reversed(came), strict=True):
            chosen.append(best[c])
            c = step[c]
        return chosen[::-1]


def _best_names(nets: Nets, owner: Array, nparts: int) -> tuple[Array, int]:
    """New names of the readers' parts with which most of what they read is their own, and how many words that is."""
    shared = np.zeros((nparts, nparts), np.int64)
    alignment((nets.ptr, nets.nets, nets.cost, owner.astype(np.int32), nets.readers), shared)
    group, name = linear_sum_assignment(shared, maximize=True)
    return name, int(shared[group, name].sum())


_NONE = np.zeros(0, np.int32)


def _no_nets(nparts: int) -> Nets:
    return Nets(np.zeros(1, np.int64), _NONE, _NONE, _NONE, np.zeros((0, nparts), np.uint16), np.zeros(0, np.int64))


def _vertices(weights: Any, owner: Array, heaviest: float) -> tuple[Array, Array]:
    """The vertex of each row and the first row of each vertex; rows of one vertex have one part."""
    vertex_of_row, first = clumps(weights, heaviest, owner)
    empty = np.flatnonzero(vertex_of_row < 0)
    vertex_of_row[empty] = first.size + np.arange(empty.size)
    return vertex_of_row, np.concatenate([first, empty])


def _nets(rows: Any, part: Array, owner_in: Array | None, before: Array | None, nparts: int, cost: int) -> Nets:
    """Nets of one row of each vertex; `before`: the vertex of each column's owner, where its layer is refined."""
    vertices, inputs = rows.shape
    columns = rows.tocsc()
    ptr, pins = columns.indptr.astype(np.int64), columns.indices.astype(np.int64)
    first = owner_in is None
    if owner_in is not None:
        key = owner_in.astype(np.int64) if before is None else before
        pins = np.insert(pins, ptr[1:], vertices + key)
        ptr = ptr + np.arange(inputs + 1)
    net_ptr, net_pins, words = merge_nets(ptr, pins)
    if first:
        vertex = np.full(words.size, -1, np.int64)
        owner = np.full(words.size, -1, np.int32)
    else:
        ends = net_ptr[1:] - 1
        key = net_pins[ends] - vertices
        net_pins = np.delete(net_pins, ends)
        net_ptr = net_ptr - np.arange(net_ptr.size)
        vertex = np.full(words.size, -1, np.int64) if before is None else key
        owner = (key if before is None else _first_of(before, owner_in)[key]).astype(np.int32)
    of_pin = np.repeat(np.arange(words.size), np.diff(net_ptr))
    by_vertex = np.argsort(net_pins, kind="stable")
    vertex_ptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(net_pins, minlength=vertices))])
    longest = int(np.diff(net_ptr).max(initial=0))
    readers = np.zeros((words.size, nparts), np.uint16 if longest <= _SHORT else np.int32)
    nets = Nets(vertex_ptr, of_pin[by_vertex].astype(np.int32), (words * cost).astype(np.int32), owner, readers, vertex)
    _count(nets, part)
    return nets


def _first_of(before: Array, owner_in: Array | None) -> Array:
    """The part of each vertex of the layer before."""
    assert owner_in is not None
    part = np.zeros(int(before.max(initial=-1)) + 1, np.int64)
    part[before] = owner_in
    return part


def _count(nets: Nets, part: Array) -> None:
    """Count the readers of each net in each part."""
    nparts = nets.readers.shape[1]
    where = nets.nets.astype(np.int64) * nparts + np.repeat(part, np.diff(nets.ptr))
    nets.readers[:] = np.bincount(where, minlength=nets.readers.size).reshape(nets.readers.shape)


def _nets_behind(
    weights: Any, owner_out: Array | None, owner_in: Array | None, before: Array | None, nparts: int, cost: int
) -> Nets:
    """Nets of a layer whose rows are fixed: only which parts read a column counts."""
    assert owner_out is not None
    assert before is not None
    reading = np.zeros((weights.shape[1], nparts), np.uint16)
    touched = touches(weights, owner_out, nparts).tocoo()
    reading[touched.col, touched.row] = 1
    kept = reading.any(axis=1)
    key = np.concatenate([before[kept, None].astype(np.int64), np.packbits(reading[kept] > 0, axis=1)], axis=1)
    distinct, first, words = np.unique(key, axis=0, return_index=True, return_counts=True)
    vertex = distinct[:, 0]
    owner = _first_of(before, owner_in)[vertex].astype(np.int32)
    return Nets(np.zeros(1, np.int64), _NONE, (words * cost).astype(np.int32), owner, reading[kept][first], vertex)
