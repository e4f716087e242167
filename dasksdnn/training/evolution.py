"""How a layer's pattern changes between epochs of sparse training: the weights that a rule drops, the edges that it grows.

    row i of W_k      columns   0  3  5  8              the smallest |w| are dropped, as many others grow at 0:
                      |w|      .7 .1 .9 .2   ------>    0 5 8 | 4      a random column (SET), or
                                                        0 5 8 | 7      the one of the largest |gradient| (RigL)

All functions are pure. What is drawn depends on a key and the row's own number, so not on who owns the row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse

from dasksdnn.compiling import Call, compiled
from dasksdnn.errors import InputError
from dasksdnn.network import Array
from dasksdnn.sources.pruning import smallest

#: Of edges (rows, columns) that do not exist yet: the sum over samples of delta[row, s] * x[column, s].
Gradient = Callable[[Array, Array], Array]

#: Where rows may grow: (rows, columns), both ascending; the columns hold all that these rows read already.
Panel = tuple[Array, Array]

#: RigL looks at so many candidates for each edge that it grows, and at so many more for each row.
CANDIDATES, MORE = 4, 16


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a layer's pattern.

    Attributes
    ----------
    kept : bool array of shape (nonzeros,)
        Entries that stay, in the order of the layer's CSR.
    rows, columns : int64 arrays of shape (grown,)
        New edges, by (row, column); they begin at zero.
    """

    kept: Array
    rows: Array
    columns: Array

    @property
    def dropped(self) -> int:
        """Number of edges that go."""
        return int(self.kept.size - np.count_nonzero(self.kept))

    @property
    def grown(self) -> int:
        """Number of edges that are new."""
        return int(self.rows.size)


def target_density(start: float, end: float, epoch: int, first: int, last: int) -> float:
    """Give the density to prune to at an epoch: from `start` at epoch `first` to `end` at `last`, fast, then ever more slowly.

    The cubic schedule of Zhu and Gupta (arXiv 1710.01878, section 3), for the share of weights that are there.
    """
    if epoch < first:
        return start
    if epoch >= last:
        return end
    return end + (start - end) * (1 - (epoch - first) / (last - first)) ** 3


def drop_share(share: float, epoch: int, epochs: int) -> float:
    """Give the share of weights to drop at an epoch (from 0): from `share` to 0 at `epochs`, along half a cosine.

    Evci et al., arXiv 1911.11134, section 3.
    """
    return share / 2 * (1 + math.cos(math.pi * min(1.0, epoch / max(1, epochs))))


def draw_key(seed: int, epoch: int, layer: int) -> np.uint64:
    """Make the key of what `rewire` draws."""
    key: np.uint64 = np.random.SeedSequence([seed, epoch, layer]).generate_state(1, np.uint64)[0]
    return key


def prune(weights: Any, density: float) -> Change:
    """Drop the smallest weights of a layer; each row keeps its largest.

    Parameters
    ----------
    weights : csr_array of shape (outputs, inputs)
        Canonical.
    density : float
        Share of outputs * inputs that stays, to the nearest entry; a layer that has no more loses nothing.

    Notes
    -----
    Of equal weights, what stands first by (row, column) is dropped first.
    """
    size, lengths = np.abs(weights.data), np.diff(weights.indptr)
    spare = np.flatnonzero(_smallest(size, weights.indptr, np.maximum(lengths - 1, 0)))
    excess = min(size.size - round(density * weights.shape[0] * weights.shape[1]), spare.size)
    kept = np.ones(size.size, np.bool_)
    kept[spare[smallest(size[spare], excess)]] = False
    none = np.zeros(0, np.int64)
    return Change(kept, none, none)


def rewire(
    weights: Any,
    share: float,
    key: np.uint64,
    *,
    panels: Iterable[Panel] | None = None,
    gradient: Gradient | None = None,
) -> Change:
    """Drop the smallest weights of each row and grow as many edges elsewhere: every row keeps its number of entries.

    Without a gradient new columns are drawn at random (SET: Mocanu et al., Nature Communications 9, 2018). With one they are
    those of the largest magnitude (RigL: Evci et al., arXiv 1911.11134) among random candidates of each row, of bounded
    number, for the gradient of a dense layer would not fit in memory.

    Parameters
    ----------
    weights : csr_array of shape (outputs, inputs)
        Canonical.
    share : float
        Of a row's entries, to the nearest; one stays in any case. No more is dropped than the row has columns to grow at:
        columns that it reads before are none.
    key : uint64
        Of what is drawn (`draw_key`).
    panels : iterable of (rows, columns), optional
        Where rows may grow, together all rows; by default anywhere.
    gradient : callable (rows, columns) -> array, optional
        Asked once, for candidates by (row, column).

    Raises
    ------
    InputError
        The gradient gives something else than a finite number for each.

    Notes
    -----
    Of equal weights the first by column is dropped first; of equal gradients, it grows first.
    """
    lengths = np.diff(weights.indptr)
    count = np.zeros(lengths.size, np.int64)
    drawn = []
    for rows, columns in panels if panels is not None else [(None, None)]:
        mine, positions, ids, width = _within(weights, rows, columns)
        sizes = np.diff(mine.indptr)
        most = np.minimum(width - sizes, np.maximum(sizes - 1, 0))
        drop = np.minimum(np.rint(share * sizes).astype(np.int64), most)
        count[ids] = drop
        look = drop if gradient is None else np.minimum(width - sizes, np.where(drop > 0, CANDIDATES * drop + MORE, 0))
        picks = _draw(mine.indptr, positions, ids, look, width, key)
        drawn.append((np.repeat(ids, look), picks if columns is None else columns[picks].astype(np.int64)))
    rows, columns = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    if panels is not None:
        order = np.argsort(rows, kind="stable")
        rows, columns = rows[order], columns[order]
    if gradient is not None and rows.size:
        best = _largest(gradient, rows, columns, count)
        rows, columns = rows[best], columns[best]
    return Change(~_smallest(np.abs(weights.data), weights.indptr, count), rows, columns)


def merge(weights: Any, change: Change) -> Any:
    """Make the new pattern, and say where its values come from.

    Returns
    -------
    csr_array of shape (outputs, inputs), int64
        Canonical; the value of an entry is its position in the old pattern, or the old pattern's number of entries where
        it is new: put a zero behind the old values (or moments) and take from them.
    """
    index = weights.indices.dtype
    row = np.repeat(np.arange(weights.shape[0], dtype=index), np.diff(weights.indptr))[change.kept]
    row = np.concatenate([row, change.rows.astype(index)])
    column = np.concatenate([weights.indices[change.kept], change.columns.astype(index)])
    source = np.concatenate([np.flatnonzero(change.kept), np.full(change.grown, weights.nnz)])
    return scipy.sparse.coo_array((source, (row, column)), shape=weights.shape).tocsr()


def _within(weights: Any, rows: Array | None, columns: Array | None) -> tuple[Any, Array, Array, int]:
    """The rows, their columns numbered by what they may read, their ids, and how much they may read."""
    if rows is None or columns is None:
        return weights, weights.indices, np.arange(weights.shape[0]), weights.shape[1]
    mine = weights[rows]
    return mine, np.searchsorted(columns, mine.indices), rows.astype(np.int64), columns.size


def _largest(gradient: Gradient, rows: Array, columns: Array, count: Array) -> Array:
    """Mark the candidates that grow: of each row `count`, by magnitude."""
    values = np.asarray(gradient(rows, columns))
    if values.shape != rows.shape or not np.isfinite(values).all():
        raise InputError(
            f"the gradient of {rows.size} candidate edges has shape {values.shape} or is not finite: "
            "give one finite number for each"
        )
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(rows, minlength=count.size))])
    return _smallest(-np.abs(values), indptr, count)


def _smallest(keys: Array, indptr: Array, count: Array) -> Array:
    """Mark of each row the `count` smallest keys, of equal ones the first."""
    marks = np.zeros(keys.size, np.bool_)
    _mark(keys, indptr, count, marks)
    return marks


def _draw(indptr: Array, taken: Array, ids: Array, count: Array, width: int, key: np.uint64) -> Array:
    """Draw for each row `count` of the positions below `width` that it has not taken: distinct and ascending."""
    picks = np.empty(int(count.sum()), np.int64)
    _sample(indptr, taken, ids, count, width, key, picks, np.full(width, -1, np.int64))
    return picks


@compiled
def _mark(keys, indptr, count, marks):  # type: ignore[no-untyped-def]
    for i in range(count.size):
        if count[i] > 0:
            begin = indptr[i]
            order = np.argsort(keys[begin : indptr[i + 1]], kind="mergesort")
            for e in order[: count[i]]:
                marks[begin + e] = True


@compiled
def _sample(indptr, taken, ids, count, width, key, picks, seen):  # type: ignore[no-untyped-def]
    """Floyd's sampling of ranks among the free positions, which are then looked up between those that are taken."""
    step, half = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)
    at = 0
    for i in range(count.size):
        free = width - (indptr[i + 1] - indptr[i])
        first = at
        state = _mixed(key + np.uint64(ids[i] + 1) * step)
        for top in range(free - count[i], free):
            state += step
            rank = np.int64(((_mixed(state) >> half) * np.uint64(top + 1)) >> half)
            if seen[rank] == i:
                rank = np.int64(top)
            seen[rank] = i
            picks[at] = rank
            at += 1
        picks[first:at].sort()
        e = indptr[i]
        for n in range(first, at):
            while e < indptr[i + 1] and taken[e] - (e - indptr[i]) <= picks[n]:
                e += 1
            picks[n] += e - indptr[i]


@compiled
def _mixed(state):  # type: ignore[no-untyped-def]
    """SplitMix64's output (Steele et al., OOPSLA 2014)."""
    z = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def warm_up_calls(dtype: np.dtype[Any]) -> list[Call]:
    """List calls (see `compiling.warm_up`) that compile what `prune` and `rewire` need, for weights of one dtype."""
    weights = scipy.sparse.csr_array(np.eye(2, 3, dtype=dtype))
    panel = (np.arange(2), np.arange(3))
    return [
        partial(prune, weights, 0.5),
        partial(rewire, weights, 0.5, np.uint64(0), gradient=lambda rows, columns: np.zeros(rows.size, dtype)),
        partial(rewire, weights, 0.5, np.uint64(0), panels=[panel]),
    ]
