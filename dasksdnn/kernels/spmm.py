"""The product of a row block with a panel, forward with bias and activation, and backward with the activation's derivative.

    forward:   y[i, s] = f(bias[i] + sum_e data[e] * x[indices[e], s])            x (inputs, samples), y (rows, samples)
    backward:  out[j, s] = f'(y[j, s]) * sum_e data[order[e]] * delta[rows[e], s]    e over column j

Both are gathers. Every output sums its terms one after the other in the stored order, starting from zero, at every panel
width: a sample's result does not depend on which panel, batch or thread it went through. Rows that share their columns
and stand together (supernodes) are computed together, so that what is loaded is used several times.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from dasksdnn import host
from dasksdnn.compiling import Call, compiled
from dasksdnn.kernels.activations import beyond_bounds, bounds, derive, slopes, transform
from dasksdnn.kernels.block import Block, make_block
from dasksdnn.kernels.microkernel import multiply, prefetch
from dasksdnn.kernels.panels import FAR, LANES, STRIP_BYTES, new_panel, widened
from dasksdnn.kernels.vectors import lanes
from dasksdnn.network import Activation, Array

#: A supernode of this many rows computes long enough to hide the fetching of the next one's columns.
_AHEAD_ROWS = 8


def spmm(
    block: Block,
    data: Array,
    bias: Array,
    activation: Activation,
    x: Array,
    y: Array,
    samples: int,
    *,
    part: tuple[int, int] | None = None,
    vector: int | None = None,
) -> None:
    """Write f(W x + bias) into `y`.

    Parameters
    ----------
    block : Block
    data : array of shape (nonzeros,)
        float32 or float64.
    bias : array of shape (rows,)
    activation : Activation
    x, y : arrays of shape (>= inputs, width), (>= rows, width)
        Panels in C order, of the dtype of `data`; `y` must not overlap `x`. Fastest from `new_panel`, which aligns them.
    samples : int
        How many columns of the panels to compute, at most their width; those up to the next multiple of `LANES` may be
        written too.
    part : (first, last), optional
        Compute only these supernodes (see `split_rows`).
    vector : int, optional
        Bytes of a vector register; by default this machine's.

    Raises
    ------
    ValueError
        A panel is not in C order.
    """
    value = data.dtype.type
    low, high = bounds(activation)
    index = (block.indptr, block.indices, None, block.supernodes)
    finish = (bias, value(low), value(high), beyond_bounds(activation), value(activation.parameter), None)
    _run(index, data, finish, x, y, samples, part, vector)


def spmm_transposed(
    block: Block,
    data: Array,
    delta: Array,
    out: Array,
    samples: int,
    *,
    activation: Activation | None = None,
    y: Array | None = None,
    part: tuple[int, int] | None = None,
    vector: int | None = None,
) -> None:
    """Write f'(z) * (W^T delta) into `out`; without an activation, W^T delta.

    Parameters
    ----------
    block : Block
        With its transpose.
    data : array of shape (nonzeros,)
    delta, out : arrays of shape (>= rows, width), (>= inputs, width)
        Panels as for `spmm`.
    samples : int
    activation, y : optional
        The activation of the layer before, and its output f(z), of shape (>= inputs, width); its derivative follows from
        its output (for leaky_relu, where its parameter is not negative).
    part, vector : optional
        As for `spmm`; supernodes are the transpose's.
    """
    back = block.transpose
    if back is None:
        raise ValueError("the block has no transpose: make it with make_block(..., transpose=True)")
    value = data.dtype.type
    index = (back.indptr, back.indices, back.order, back.supernodes)
    finish: tuple[Any, ...]
    if activation is None or activation.name == "identity":
        finish = (None, value(0), value(0), 0, value(0), None)
    else:
        low, high, slope = slopes(activation)
        finish = (None, value(low), value(high), beyond_bounds(activation), value(slope), y)
    _run(index, data, finish, delta, out, samples, part, vector)


def _run(
    index: tuple[Any, ...],
    data: Array,
    finish: tuple[Any, ...],
    x: Array,
    y: Array,
    samples: int,
    part: tuple[int, int] | None,
    vector: int | None,
) -> None:
    """Check the panels, and call the compiled kernel; what is narrower than a vector is computed in wider copies."""
    *settings, before = finish
    if not all(panel.flags.c_contiguous for panel in (x, y, *([] if before is None else [before]))):
        raise ValueError("panels must be in C order")
    if y.shape[1] < LANES:
        wide = widened(y)
        held = None if before is None else widened(before)
        _run(index, data, (*settings, held), widened(x), wide, samples, part, vector)
        y[...] = wide[:, : y.shape[1]]
        return
    first, last = part or (0, index[3].size - 1)
    width = min(-(-samples // LANES) * LANES, x.shape[1])
    ahead = x.shape[0] * min(width * data.itemsize, STRIP_BYTES) > FAR * host.cache_bytes()
    product(*index, first, last, data, *settings, before, x, y, width, ahead, lanes(data.itemsize, vector))


# "contract" lets a product and a sum become one FMA, the same in every loop; nothing is reassociated.
_compile = compiled(fastmath={"contract"})


@_compile
def product(indptr, indices, order, supernodes, first, last, data, bias, low, high, code, parameter, before, x, y, width, ahead, vector):  # type: ignore[no-untyped-def]  # fmt: skip
    """Strips of samples one after the other, so that a strip of `x` stays in the cache for all rows.

    A strip is three vectors wide, or two: with eight rows, three fill the registers of a machine that has 32 of them.
    """
    lanes = len(vector)
    s = 0
    while s < width:
        left = (width - s) // lanes
        if left == 3 or left > 4:
            _strip(indptr, indices, order, supernodes, first, last, data, bias, low, high, code, parameter, before, x, y, s, ahead, vector, (0, 0, 0))  # fmt: skip
            s += 3 * lanes
        elif left >= 2:
            _strip(indptr, indices, order, supernodes, first, last, data, bias, low, high, code, parameter, before, x, y, s, ahead, vector, (0, 0))  # fmt: skip
            s += 2 * lanes
        else:
            s = min(s, width - lanes)  # the last vector may begin in what is computed already, and computes it again
            _strip(indptr, indices, order, supernodes, first, last, data, bias, low, high, code, parameter, before, x, y, s, ahead, vector, (0,))  # fmt: skip
            s += lanes


@_compile
def _strip(indptr, indices, order, supernodes, first, last, data, bias, low, high, code, parameter, before, x, y, s, ahead, vector, vectors):  # type: ignore[no-untyped-def]  # fmt: skip
    """Rows of supernodes for as many samples as `vectors` vectors have: as many rows at once as the registers hold."""
    width = len(vectors) * len(vector)
    many = len(vector) * data.itemsize == 64  # 32 registers
    for g in range(first, last):
        i, end = supernodes[g], supernodes[g + 1]
        e = indptr[i]
        n = indptr[i + 1] - e
        if ahead and g + 1 < last and end - i >= _AHEAD_ROWS:
            _fetch(indices, e + n * (end - i), indptr[end + 1], x, s, len(vectors), len(vector))
        while many and len(vectors) == 1 and i + 16 <= end:
            multiply(
                16,
                vectors,
                vector,
                data,
                order,
                indptr[i],
                n,
                indices,
                e,
                bias,
                low,
                high,
                before,
                parameter,
                x,
                y,
                i,
                s,
            )
            i += 16
        while many and i + 8 <= end:
            multiply(
                8,
                vectors,
                vector,
                data,
                order,
                indptr[i],
                n,
                indices,
                e,
                bias,
                low,
                high,
                before,
                parameter,
                x,
                y,
                i,
                s,
            )
            i += 8
        while i + 4 <= end:
            multiply(
                4,
                vectors,
                vector,
                data,
                order,
                indptr[i],
                n,
                indices,
                e,
                bias,
                low,
                high,
                before,
                parameter,
                x,
                y,
                i,
                s,
            )
            i += 4
        while i + 2 <= end:
            multiply(
                2,
                vectors,
                vector,
                data,
                order,
                indptr[i],
                n,
                indices,
                e,
                bias,
                low,
                high,
                before,
                parameter,
                x,
                y,
                i,
                s,
            )
            i += 2
        while i < end:
            multiply(
                1,
                vectors,
                vector,
                data,
                order,
                indptr[i],
                n,
                indices,
                e,
                bias,
                low,
                high,
                before,
                parameter,
                x,
                y,
                i,
                s,
            )
            i += 1
        if code:
            if before is None:
                transform(y, supernodes[g], end, s, width, code, parameter)
            else:
                derive(y, before, supernodes[g], end, s, width, code)


@compiled
def _fetch(indices, begin, end, x, s, vectors, lanes):  # type: ignore[no-untyped-def]
    """Prefetch the columns of the next supernode, which out of the second-level cache come too late by themselves."""
    for e in range(begin, end):
        for t in range(vectors):
            prefetch(x, np.int64(indices[e]), s + t * lanes)


def split_rows(block: Block, count: int, *, transposed: bool = False) -> list[tuple[int, int]]:
    """Cut a block's supernodes into `count` runs of about equal work, for threads: ranges for `part`, none of them empty."""
    back = block.transpose if transposed else None
    indptr, supernodes = (block.indptr, block.supernodes) if back is None else (back.indptr, back.supernodes)
    # A row costs something even where it is empty.
    work = indptr[supernodes] + supernodes
    cuts = np.searchsorted(work, np.linspace(0, work[-1], count + 1)[1:-1])
    edges = np.unique(np.concatenate([[0], cuts, [supernodes.size - 1]])).tolist()
    return list(pairwise(edges))


def warm_up_calls(dtype: np.dtype[Any], positions: np.dtype[Any], *, backward: bool = False) -> list[Call]:
    """List calls (see `compiling.warm_up`) that need all kernels here, for one dtype of weights and one of positions."""
    panel, out = new_panel(1, LANES, dtype), new_panel(1, LANES, dtype)
    panel[...] = 0
    block = make_block(np.zeros(2, np.int64), np.zeros(0, positions), 1, transpose=backward)
    data, relu = np.zeros(0, dtype), Activation("relu")
    calls: list[Call] = [partial(spmm, block, data, np.zeros(1, dtype), relu, panel, out, 1)]
    if backward:
        calls.append(partial(spmm_transposed, block, data, panel, out, 1))
        calls.append(partial(spmm_transposed, block, data, panel, out, 1, activation=relu, y=panel))
    return calls
