"""Several panels through consecutive layers between which owners exchange rows: one call for all of it.

    panel 0:  layer k -> depart ..... arrive -> layer k + 1 -> depart ...
    panel 1:            layer k -> depart ..... arrive -> layer k + 1 ...

A panel's messages fly while the others are computed. Every sum is in the stored order, as in `chain.run_chain`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dasksdnn.compiling import Call, compiled
from dasksdnn.kernels.activations import beyond_bounds, bounds
from dasksdnn.kernels.chain import Chain, empty_chain, with_supernodes
from dasksdnn.kernels.panels import LANES, new_panel
from dasksdnn.kernels.routes import COMPUTING, Routes, arrive, begin, depart, note, quiet_routes
from dasksdnn.kernels.spmm import product_rows
from dasksdnn.kernels.team import Team, boundary, meet
from dasksdnn.kernels.vectors import shape
from dasksdnn.network import Activation, Array


def relay(
    chain: Chain,
    base: int,
    span: tuple[int, int],
    pool: Array,
    places: Array,
    counts: Array,
    routes: Routes,
    team: Team | None = None,
) -> None:
    """Run panels through layers, exchanging on the way.

    Parameters
    ----------
    chain : Chain
        Layers of a network from `base` (0-based) on.
    base : int
    span : (first, last)
        0-based in the network, `last` not included.
    pool : array of shape (panels, rows, width)
    places : int64 array of shape (group, 2)
        Where in the pool each panel is, and where it has room: the result is in the first of them after an even number of
        layers, else in the second.
    counts : int64 array of shape (group,)
        Samples of each panel, at most the width.
    routes : Routes
        With tiles enough for the group.
    team : Team, optional
        Threads that share the rows of every layer; the caller's does the exchanges.
    """
    first, last = span
    if pool.shape[2] % LANES or counts.size > routes.open.size or max(chain.widths) > pool.shape[1]:
        raise ValueError("the panels, or the routes, are not of the chain")
    if counts.size and not 0 < counts.max() <= pool.shape[2]:
        raise ValueError(f"counts are up to {counts.max()}: the panels hold {pool.shape[2]} samples")
    chosen = chain.activations[first - base : last - base]
    codes = np.array([beyond_bounds(f) for f in chosen], np.int64)
    numbers = np.array([(*bounds(f), f.parameter) for f in chosen], chain.data.dtype).reshape(-1, 3)
    spans = chain.spans[first - base : last - base + 1]
    arrays = (chain.indptr, chain.indices, chain.data, chain.bias, chain.supernodes, spans, codes, numbers)
    how = (pool, places, counts, first, routes, shape(pool.itemsize))
    if team is None:
        _relay(*arrays, *how, 0, 1, np.zeros(1, np.int64))
    else:
        team.run(lambda member, counter: _relay(*arrays, *how, member, team.members, counter))


@compiled(fastmath={"contract"})
def _relay(indptr, indices, data, bias, supernodes, spans, codes, numbers, pool, places, counts, base, routes, shape, member, members, counter):  # type: ignore[no-untyped-def]  # fmt: skip
    group = counts.size
    if member == 0 and routes.meets[base]:
        for i in range(group):
            depart(routes, base, i, pool[places[i, 0]], counts[i], 0)
    for k in range(codes.size):
        p, e, r, g = spans[k]
        p1, e1, r1, g1 = spans[k + 1]
        rows, nodes, layer = indptr[p:p1], supernodes[g:g1], base + k
        first, last = boundary(rows, nodes, member, members), boundary(rows, nodes, member + 1, members)
        for i in range(group):
            x, y = pool[places[i, k % 2]], pool[places[i, (k + 1) % 2]]
            if routes.meets[layer]:
                if member == 0:
                    arrive(routes, layer, i, x, counts[i], 0)
                meet(counter, members)
            began = begin(routes) if member == 0 else 0
            width = (counts[i] + LANES - 1) // LANES * LANES
            product_rows(
                rows, nodes, first, last, data[e:e1], None, indices[e:e1], bias[r:r1], numbers[k, 0], numbers[k, 1],
                None, numbers[k, 2], None, x, y, codes[k], width, shape,
            )  # fmt: skip
            if member == 0:
                note(routes, layer, 0, i, COMPUTING, began)
            if k + 1 < codes.size and routes.meets[layer + 1]:
                meet(counter, members)
                if member == 0:
                    depart(routes, layer + 1, i, y, counts[i], 0)
        meet(counter, members)


def warm_up_calls(dtype: np.dtype[Any], positions: np.dtype[Any]) -> list[Call]:
    """List calls (see `compiling.warm_up`) that need all kernels here; they send nothing. `wire.bind` comes first."""
    chain = empty_chain([1], [0], [1], [Activation("relu")], dtype, positions)
    chain.bias[:] = 0
    pool = new_panel(2, LANES, dtype).reshape(2, 1, LANES)
    pool[...] = 0
    places, counts = np.array([[0, 1]], np.int64), np.ones(1, np.int64)
    quiet = quiet_routes(dtype)
    return [lambda: relay(with_supernodes(chain), 0, (0, 1), pool, places, counts, quiet)]
