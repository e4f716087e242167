"""The product of a row block with a panel, forward with bias and activation, and backward with the activation's derivative.

    forward:   y[i, s] = f(bias[i] + sum_e data[e] * x[indices[e], s])            x (inputs, samples), y (rows, samples)
    backward:  out[j, s] = f'(y[j, s]) * sum_e data[order[e]] * delta[indices[e], s]    e over column j = columns[k]

Both are gathers. Every output sums its terms one after the other in the stored order, starting from zero, at every panel
width: a sample's result does not depend on which panel, batch or thread it went through. Rows that share their columns
and stand together (supernodes) are computed together, so that what is loaded is used several times.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from dasksdnn.compiling import Call, compiled
from dasksdnn.kernels.activations import beyond_bounds, bounds, derive, slopes, transform
from dasksdnn.kernels.block import Block, make_block
from dasksdnn.kernels.checks import check_panels, check_values
from dasksdnn.kernels.microkernel import OPERANDS, multiply
from dasksdnn.kernels.panels import LANES, new_panel, widened
from dasksdnn.kernels.vectors import shape
from dasksdnn.network import Activation, Array


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
        An array is of another shape, dtype or order than it must be.
    """
    check_values(data.dtype, data=(data, block.nonzeros), bias=(bias, block.rows))
    check_panels(data.dtype, samples, x=(x, block.inputs), y=(y, block.rows))
    value = data.dtype.type
    low, high = map(value, bounds(activation))
    operands = (data, None, block.indices, bias, low, high, None, value(activation.parameter), None)
    _run(block.indptr, block.supernodes, operands, beyond_bounds(activation), x, y, samples, part, vector)


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
        The activation of the layer before, and its output f(z), of shape (>= inputs, width), which must not overlap `out`;
        the derivative follows from the output (for leaky_relu, where its parameter is not negative). It is 0 at the bounds
        of relu and clip.
    part, vector : optional
        As for `spmm`; supernodes are the transpose's.
    """
    back = block.transpose
    if back is None:
        raise ValueError("the block has no transpose: make it with make_block(..., transpose=True)")
    check_values(data.dtype, data=(data, block.nonzeros))
    check_panels(data.dtype, samples, delta=(delta, block.rows), out=(out, block.inputs))
    value, code = data.dtype.type, 0
    limits: tuple[Any, ...] = (value(0), value(0), None, value(0))
    if activation is not None and activation.name != "identity":
        if y is None:
            raise ValueError("the derivative of an activation follows from its output: give y")
        check_panels(data.dtype, samples, out=(out, block.inputs), y=(y, block.inputs))
        low, high, slope = map(value, slopes(activation))
        limits, code = (low, high, y, slope), beyond_bounds(activation)
    operands = (data, back.order, back.indices, None, *limits, back.columns)
    _run(back.indptr, back.supernodes, operands, code, delta, out, samples, part, vector)


def _run(
    indptr: Array,
    supernodes: Array,
    operands: tuple[Any, ...],
    code: int,
    x: Array,
    y: Array,
    samples: int,
    part: tuple[int, int] | None,
    vector: int | None,
) -> None:
    """Call the compiled kernel; what is narrower than a vector is computed in wider copies."""
    before = operands[_BEFORE]
    if y.shape[1] < LANES:
        wide, held = widened(y), None if before is None else widened(before)
        copies = (*operands[:_BEFORE], held, *operands[_BEFORE + 1 :])
        _run(indptr, supernodes, copies, code, widened(x), wide, samples, part, vector)
        y[...] = wide[:, : y.shape[1]]
        return
    first, last = part or (0, supernodes.size - 1)
    width = min(-(-samples // LANES) * LANES, x.shape[1])
    product_rows(indptr, supernodes, first, last, *operands, x, y, code, width, shape(x.itemsize, vector))


_BEFORE = OPERANDS.index("before")


@compiled(fastmath={"contract"})
def product_rows(indptr, supernodes, first, last, data, order, indices, bias, low, high, before, slope, rows, x, y, code, width, shape):  # type: ignore[no-untyped-def]  # fmt: skip
    """Numba 0.60 at times mistakes what a tuple of arrays and None holds, where it comes from Python: it is made here."""
    operands = (data, order, indices, bias, low, high, before, slope, rows, x, y)
    product(indptr, supernodes, first, last, operands, code, width, shape)


# "contract" lets a product and a sum become one FMA, the same in every loop; nothing is reassociated.


@compiled(fastmath={"contract"}, inline="always")
def product(indptr, supernodes, first, last, operands, code, width, shape):  # type: ignore[no-untyped-def]
    """Strips of samples one after the other, so that a strip of `x` stays in the cache for all rows.

    A strip is four vectors wide, or what is left; the fewer vectors, the more rows: the sums fill the registers.
    """
    vector, rows = shape
    lanes = len(vector)
    s = 0
    while s < width:
        left = (width - s) // lanes
        if left == 4 or left > 6:
            _strip(indptr, supernodes, first, last, operands, code, s, vector, (0, 0, 0, 0), rows)
            s += 4 * lanes
        elif left >= 3:
            _strip(indptr, supernodes, first, last, operands, code, s, vector, (0, 0, 0), rows)
            s += 3 * lanes
        elif left == 2:
            _strip(indptr, supernodes, first, last, operands, code, s, vector, (0, 0), rows + rows)
            s += 2 * lanes
        else:
            s = min(s, width - lanes)  # the last vector may begin in what is computed already, and computes it again
            _strip(indptr, supernodes, first, last, operands, code, s, vector, (0,), rows + rows + rows + rows)
            s += lanes


# Inlined before it is compiled: as functions of their own, LLVM spills what must stay in registers.
@compiled(fastmath={"contract"}, inline="always")
def _strip(indptr, supernodes, first, last, operands, code, s, vector, vectors, rows):  # type: ignore[no-untyped-def]
    """Rows of supernodes for as many samples as `vectors` vectors have, as many as `rows` has at once.

    The last of them fetch the next supernode's columns, which would come too late by themselves.
    """
    _, _, indices, _, _, _, before, parameter, rows_of, _, y = operands
    for g in range(first, last):
        i, end = supernodes[g], supernodes[g + 1]
        e = indptr[i]
        n = indptr[i + 1] - e
        following = indptr[end] if indptr[end] + n <= indices.size else e
        while i + 2 * len(rows) <= end:
            multiply(rows, vectors, vector, operands, indptr[i], n, e, None, i, s)
            i += len(rows)
        while i + len(rows) <= end:
            multiply(rows, vectors, vector, operands, indptr[i], n, e, following, i, s)
            i += len(rows)
        while len(rows) > 4 and i + 4 <= end:
            multiply((0, 0, 0, 0), vectors, vector, operands, indptr[i], n, e, None, i, s)
            i += 4
        while len(rows) > 2 and i + 2 <= end:
            multiply((0, 0), vectors, vector, operands, indptr[i], n, e, None, i, s)
            i += 2
        while i < end:
            multiply((0,), vectors, vector, operands, indptr[i], n, e, None, i, s)
            i += 1
        if code:
            _finish(y, before, rows_of, supernodes[g], end, s, len(vectors) * len(vector), code, parameter)


@compiled
def _finish(y, before, rows, first, last, s, width, code, parameter):  # type: ignore[no-untyped-def]
    """What is more than bounds, on rows that are in the cache still."""
    if before is None:
        transform(y, first, last, s, width, code, parameter)
    else:
        derive(y, before, rows, first, last, s, width, code)


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
