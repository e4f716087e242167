"""The methods: each gives a part to every row of one layer, knowing the owners of the layer before.

A method is a function of a `Task`; `METHODS` names them all.
What they return is balanced afterwards by balance.py, and rows with no nonzeros are spread: a method need do neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from dasksdnn.network import Array
from dasksdnn.partition.balance import pack, rebalance
from dasksdnn.partition.hypergraph import CLUMP_FRACTION, LayerHypergraph, clumps, layer_hypergraph, of_rows
from dasksdnn.partition.native import Helper
from dasksdnn.partition.relabel import relabel

#: Columns that more pairs of clumps share than this in all are left out of the row-similarity graph, the fullest first.
GRAPH_PAIRS = 30_000_000
#: METIS counts in 32 bits.
METIS_LARGEST = 2**30


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One layer to be partitioned."""

    #: csr_array (outputs, inputs).
    weights: Any
    #: int (inputs,): the part of each input neuron; None for the first layer, whose inputs follow its rows.
    owner_in: Array | None
    nparts: int
    epsilon: float
    #: Below 2**31; differs from layer to layer.
    seed: int
    #: Where native libraries run.
    helper: Helper

    @property
    def nonzeros(self) -> Array:
        """Of each row, int64."""
        nonzeros: Array = np.diff(self.weights.indptr).astype(np.int64)
        return nonzeros


def random(task: Task) -> Array:
    """Rows heaviest first, equal rows in a random order, each to the lightest part: random, and balanced."""
    nonzeros = task.nonzeros
    shuffled = np.random.default_rng(task.seed).permutation(nonzeros.size)
    owner = np.empty(nonzeros.size, np.int64)
    owner[shuffled] = pack(nonzeros[shuffled], task.nparts)
    return owner


def block(task: Task) -> Array:
    """Consecutive rows: the least limit on a part's nonzeros that `nparts` blocks can meet, found by bisection."""
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(task.nonzeros)])
    low, high = max(int(task.nonzeros.max(initial=0)), -(-int(ends[-1]) // task.nparts)), int(ends[-1])
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _cuts(ends, middle, task.nparts)[-1] == ends.size - 1 else (middle + 1, high)
    return np.repeat(np.arange(task.nparts), np.diff(_cuts(ends, low, task.nparts)))


def _cuts(ends: Array, limit: int, nparts: int) -> Array:
    """Where blocks of at most `limit` nonzeros end, each as long as it can be."""
    cuts = np.zeros(nparts + 1, np.int64)
    for part in range(nparts):
        cuts[part + 1] = np.searchsorted(ends, ends[cuts[part]] + limit, "right") - 1
    return cuts


def metis(task: Task) -> Array:
    """METIS on the row-similarity graph W W^T of merged rows, then relabelled against the layer before."""
    clump_of_row, first = clumps(task.weights, task.weights.nnz / task.nparts * CLUMP_FRACTION)
    graph = _similarity(task.weights[first], np.bincount(clump_of_row[clump_of_row >= 0], minlength=first.size))
    if first.size <= task.nparts or not graph.nnz:
        return _packed(task)
    weight = np.bincount(clump_of_row[clump_of_row >= 0], task.nonzeros[clump_of_row >= 0], first.size)
    part = task.helper.call(
        "metis",
        task.nparts,
        task.epsilon,
        task.seed,
        xadj=graph.indptr,
        adjncy=graph.indices,
        vertex_weight=_scaled(weight),
        edge_weight=_scaled(graph.data),
    )
    return _named(task, of_rows(clump_of_row, part))


def _similarity(pattern: Any, size: Array) -> Any:
    """How many columns two clumps share, times the rows of one and of the other; no diagonal."""
    degree = np.bincount(pattern.indices, minlength=pattern.shape[1]).astype(np.int64)
    order = np.argsort(degree, kind="stable")
    kept = np.zeros(degree.size, bool)
    kept[order] = np.cumsum(degree[order] ** 2) <= GRAPH_PAIRS
    reads = pattern.astype(np.float64)
    reads.data = kept[pattern.indices] * np.repeat(size, np.diff(pattern.indptr)).astype(np.float64)
    reads.eliminate_zeros()
    graph = scipy.sparse.csr_array(reads @ reads.T)
    graph.setdiag(0)
    graph.eliminate_zeros()
    graph.sort_indices()
    return graph


def _scaled(weight: Array) -> Array:
    """Whole numbers of at least 1 whose sum METIS can hold."""
    return np.maximum(1, np.rint(weight * min(1.0, METIS_LARGEST / max(1.0, float(weight.sum()))))).astype(np.int32)


def mtkahypar(task: Task) -> Array:
    """Mt-KaHyPar's deterministic preset on the layer hypergraph with fixed vertices."""
    return _cut(task, "mtkahypar")


def kahypar(task: Task) -> Array:
    """KaHyPar (GPLv3) on the layer hypergraph with fixed vertices."""
    return _cut(task, "kahypar")


def _cut(task: Task, library: str) -> Array:
    graph = layer_hypergraph(task.weights, task.owner_in, task.nparts)
    part = cut(graph, task, library)
    return _packed(task) if part is None else _named(task, graph.rows(part))


def cut(graph: LayerHypergraph, task: Task, library: str) -> Array | None:
    """The part of each vertex; None where the library is not to be asked, because it would crash or has no choice."""
    if graph.clumps <= task.nparts or not graph.net_cost.size:
        return None
    names = ("vertex_weight", "net_ptr", "pins", "net_cost", "fixed")
    arrays = {name: getattr(graph, name) for name in names}
    return task.helper.call(library, task.nparts, task.epsilon, task.seed, **arrays)


def _packed(task: Task) -> Array:
    """Heaviest rows first, each to the lightest part: for layers on which there is nothing to cut."""
    return _named(task, pack(task.nonzeros, task.nparts))


def _named(task: Task, owner: Array) -> Array:
    return relabel(task.weights, task.owner_in, owner, task.nparts)


def balanced(task: Task, owner: Array) -> Array:
    """A method's result, moved until it honours epsilon."""
    return rebalance(task.weights, task.owner_in, owner, task.nparts, task.epsilon)


METHODS: dict[str, Callable[[Task], Array]] = {
    "mtkahypar": mtkahypar,
    "kahypar": kahypar,
    "metis": metis,
    "block": block,
    "random": random,
}
