"""Consecutive layers without an exchange, computed by one call: their arrays lie end to end, as one allocation each.

    indptr   [ layer 0 | layer 1 | ... ]      each from 0          x --layer 0--> spare --layer 1--> x --> ...
    indices  [ layer 0 | layer 1 | ... ]
    data, bias, supernodes likewise;  spans[k] says where layer k begins in each

On narrow panels a layer takes microseconds: no more than a call of its own would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dasksdnn.compiling import Call, compiled
from dasksdnn.kernels.activations import beyond_bounds, bounds
from dasksdnn.kernels.block import Block, find_supernodes
from dasksdnn.kernels.checks import check_panels
from dasksdnn.kernels.panels import LANES, new_panel
from dasksdnn.kernels.spmm import product
from dasksdnn.kernels.team import Team, boundary, meet
from dasksdnn.kernels.vectors import shape
from dasksdnn.network import Activation, Array


@dataclass(frozen=True, slots=True)
class Chain:
    """Layers that follow one another.

    Attributes
    ----------
    indptr, indices, data, bias, supernodes : arrays
        Of all layers, end to end (see `Block`).
    spans : int64 array of shape (layers + 1, 4)
        Where each layer begins in `indptr`, in `indices` and `data`, in `bias`, and in `supernodes`.
    activations : tuple of Activation
    inputs : tuple of int
        Entries of each layer's input panel: the rows of the layer before, and behind them what others send, if any do.
    """

    indptr: Array
    indices: Array
    data: Array
    bias: Array
    supernodes: Array
    spans: Array
    activations: tuple[Activation, ...]
    inputs: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.activations)

    @property
    def widths(self) -> tuple[int, ...]:
        """Entries of each layer's input panel, and rows of the last layer."""
        return (*self.inputs, int(self.spans[-1, 2] - self.spans[-2, 2]))

    def nonzeros(self, first: int, last: int) -> int:
        """Stored weights of layers `first` to `last`."""
        return int(self.spans[last, 1] - self.spans[first, 1])

    def block(self, k: int) -> Block:
        """The pattern of layer `k`: views of the chain's arrays."""
        indptr, entries, _, supernodes = (slice(a, b) for a, b in self.spans[k : k + 2].T.tolist())
        return Block(self.indptr[indptr], self.indices[entries], self.supernodes[supernodes], self.inputs[k])

    def values(self, k: int) -> tuple[Array, Array]:
        """Data and bias of layer `k`: views of the chain's arrays."""
        (e, r), (f, s) = self.spans[k : k + 2, 1:3].tolist()
        return self.data[e:f], self.bias[r:s]


def empty_chain(
    rows: Sequence[int],
    nonzeros: Sequence[int],
    inputs: Sequence[int],
    activations: Sequence[Activation],
    dtype: np.dtype[Any],
    positions: np.dtype[Any],
) -> Chain:
    """A chain of given sizes whose arrays are to be filled; `with_supernodes` completes it.

    Parameters
    ----------
    rows, nonzeros, inputs : sequences of int
        Of each layer: rows, stored weights, entries of its input panel.
    activations : sequence of Activation
    dtype, positions : numpy dtypes
        Of the values, and of `indices`.
    """
    spans: Array = np.zeros((len(rows) + 1, 4), np.int64)
    spans[1:] = np.cumsum(np.stack([np.add(rows, 1), nonzeros, rows, np.zeros(len(rows), np.int64)], axis=1), axis=0)
    sizes = spans[-1].tolist()
    return Chain(
        np.zeros(sizes[0], np.int64),
        np.empty(sizes[1], positions),
        np.empty(sizes[1], dtype),
        np.empty(sizes[2], dtype),
        np.empty(0, np.int64),
        spans,
        tuple(activations),
        tuple(inputs),
    )


def with_supernodes(chain: Chain) -> Chain:
    """The same chain, filled by now, and its supernodes found."""
    found = [find_supernodes(block.indptr, block.indices) for block in map(chain.block, range(len(chain)))]
    spans = chain.spans.copy()
    spans[1:, 3] = np.cumsum([f.size for f in found])
    arrays = (chain.indptr, chain.indices, chain.data, chain.bias, np.concatenate(found))
    return Chain(*arrays, spans, chain.activations, chain.inputs)


def run_chain(
    chain: Chain, first: int, last: int, x: Array, spare: Array, samples: int, team: Team | None = None
) -> tuple[Array, Array]:
    """Run the first `samples` columns of `x` through layers `first` to `last`.

    Parameters
    ----------
    chain : Chain
    first, last : int
    x, spare : arrays of shape (neurons, width)
        Panels in C order, of a width that is a multiple of `LANES`, with rows enough for the layers that each will hold.
        Both are overwritten, but for `x` where there is one layer only.
    samples : int
        At most their width; columns up to the next multiple of `LANES` are computed too.
    team : Team, optional
        Threads that share the rows of every layer. The bits are the same.

    Returns
    -------
    (result, spare) : the two panels, in the order in which they now are.
    """
    needs = [*chain.inputs[first:last], int(chain.spans[last, 2] - chain.spans[max(first, last - 1), 2])]
    check_panels(chain.data.dtype, samples, x=(x, max(needs[::2])), spare=(spare, max(needs[1::2], default=0)))
    if x.shape[1] % LANES:
        raise ValueError(f"the panels are {x.shape[1]} samples wide: it must be a multiple of {LANES}")
    width = -(-samples // LANES) * LANES
    chosen = chain.activations[first:last]
    codes = np.array([beyond_bounds(f) for f in chosen], np.int64)
    numbers = np.array([(*bounds(f), f.parameter) for f in chosen], chain.data.dtype).reshape(-1, 3)
    arrays = (chain.indptr, chain.indices, chain.data, chain.bias, chain.supernodes, chain.spans[first : last + 1])
    how = (codes, numbers, x, spare, width, shape(x.itemsize))
    if team is None:
        _run(*arrays, *how, 0, 1, _NOBODY)
    else:
        team.run(lambda member, counter: _run(*arrays, *how, member, team.members, counter))
    return (x, spare) if (last - first) % 2 == 0 else (spare, x)


_NOBODY: Array = np.zeros(1, np.int64)


@compiled(fastmath={"contract"})
def _run(indptr, indices, data, bias, supernodes, spans, codes, numbers, x, y, width, shape, member, members, counter):  # type: ignore[no-untyped-def]
    for k in range(codes.size):
        p, e, r, g = spans[k]
        p1, e1, r1, g1 = spans[k + 1]
        rows, nodes = indptr[p:p1], supernodes[g:g1]
        how = (numbers[k, 0], numbers[k, 1], None, numbers[k, 2], None)
        operands = (data[e:e1], None, indices[e:e1], bias[r:r1], *how, x, y)
        first, last = boundary(rows, nodes, member, members), boundary(rows, nodes, member + 1, members)
        product(rows, nodes, first, last, operands, codes[k], width, shape)
        meet(counter, members)
        x, y = y, x


def warm_up_calls(dtype: np.dtype[Any], positions: np.dtype[Any]) -> list[Call]:
    """List calls (see `compiling.warm_up`) that need all kernels here, for one dtype of weights and one of positions."""
    chain = empty_chain([1], [0], [1], [Activation("relu")], dtype, positions)
    chain.bias[:] = 0
    x, y = new_panel(1, LANES, dtype), new_panel(1, LANES, dtype)
    x[...] = 0
    return [lambda: run_chain(with_supernodes(chain), 0, 1, x, y, 1)]
