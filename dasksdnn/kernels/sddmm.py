"""The gradient of the weights on the pattern (SDDMM), and the optimizer's update fused to it.

    gradient[e] = sum_s delta[i, s] * x[indices[e], s]        e in row i

Only stored weights have a gradient. A supernode's rows are computed four at a time, so that each row of `x` that is
loaded serves four; the gradient of as many rows stands in a small buffer, from where it is stored, added, or applied to
the weights at once. A row's gradient depends on nothing else, so threads share the rows, not the samples.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from dasksdnn.compiling import Call, compiled
from dasksdnn.kernels.block import Block, make_block
from dasksdnn.kernels.checks import check_panels, check_values
from dasksdnn.kernels.dotkernel import BLOCK_BYTES, dots
from dasksdnn.kernels.panels import LANES, new_panel
from dasksdnn.kernels.update import SGD, Rule, apply, prepared
from dasksdnn.kernels.vectors import lanes
from dasksdnn.network import Array

STORE, ADD = -1, -2
#: Entries of the buffer at the least.
_BUFFER = 1024


def sddmm(
    block: Block,
    delta: Array,
    x: Array,
    gradient: Array,
    samples: int,
    *,
    accumulate: bool = False,
    part: tuple[int, int] | None = None,
    vector: int | None = None,
) -> None:
    """Write the gradient of the block's weights.

    Parameters
    ----------
    block : Block
    delta, x : arrays of shape (>= rows, width), (>= inputs, width)
        Panels in C order of one dtype: the loss's derivative by each row's sum, and the block's input.
    gradient : array of shape (nonzeros,)
        In the order of the block's data.
    samples : int
        How many columns of the panels count, at most their width. Fastest in multiples of `LANES`.
    accumulate : bool
        Add to what stands in `gradient` (micro-batches).
    part : (first, last), optional
        Compute only these supernodes (see `spmm.split_rows`).
    vector : int, optional
        Bytes of a vector register; by default this machine's.
    """
    none = np.empty(0, delta.dtype)
    how = (ADD if accumulate else STORE, none, gradient, none, none, none)
    _run(block, delta, x, samples, how, part, vector)


def sddmm_update(
    block: Block,
    delta: Array,
    x: Array,
    samples: int,
    rule: Rule,
    step: int,
    data: Array,
    moments: tuple[Array, ...] = (),
    *,
    gradient: Array | None = None,
    part: tuple[int, int] | None = None,
    vector: int | None = None,
) -> None:
    """Compute the gradient and apply an optimizer's rule to the weights, each of which is read and written once.

    Parameters
    ----------
    block, delta, x, samples, part, vector
        As for `sddmm`.
    rule : Rule
    step : int
        Counted from 1.
    data : array of shape (nonzeros,)
        The weights. The product backward must have read them before.
    moments : tuple of arrays of shape (nonzeros,)
        As many as the rule has.
    gradient : array of shape (nonzeros,), optional
        What earlier micro-batches have accumulated; it is added.
    """
    arrays, numbers = prepared(rule, step, data, moments)
    held = np.empty(0, data.dtype) if gradient is None else gradient
    _run(block, delta, x, samples, (rule.code, numbers, data, *arrays, held), part, vector)


def row_sums(delta: Array, samples: int, out: Array, *, accumulate: bool = False) -> None:
    """Write (or add) the gradient of the biases: out[i] = sum_s delta[i, s], for the first out.size rows of `delta`."""
    check_values(delta.dtype, out=(out, out.size))
    check_panels(delta.dtype, samples, delta=(delta, out.size))
    row_range_sums(delta, 0, out.size, samples, out, accumulate, lanes(delta.itemsize, BLOCK_BYTES))


def _run(
    block: Block,
    delta: Array,
    x: Array,
    samples: int,
    how: tuple[Any, ...],
    part: tuple[int, int] | None,
    vector: int | None,
) -> None:
    dtype, (_, _, data, *_, held) = delta.dtype, how
    check_panels(dtype, samples, delta=(delta, block.rows), x=(x, block.inputs))
    check_values(dtype, data=(data, block.nonzeros), gradient=(held, block.nonzeros if held.size else 0))
    first, last = part or (0, block.supernodes.size - 1)
    many = len(lanes(delta.itemsize, vector)) * delta.itemsize == BLOCK_BYTES
    gradient_rows(block.indptr, block.indices, block.supernodes, first, last, delta, x, samples, *how, many)


@compiled(fastmath={"contract"})
def gradient_rows(indptr, indices, supernodes, first, last, delta, x, samples, code, numbers, data, m, v, held, many):  # type: ignore[no-untyped-def]
    """Row after row into a buffer that stays in the cache; a full one is flushed."""
    full = samples // (BLOCK_BYTES // delta.itemsize) * (BLOCK_BYTES // delta.itemsize)
    longest = 0
    for g in range(first, last):
        longest = max(longest, indptr[supernodes[g] + 1] - indptr[supernodes[g]])
    buffer = np.empty(max(4 * longest, _BUFFER), delta.dtype)
    begin, filled = indptr[supernodes[first]], 0
    for g in range(first, last):
        i, end = supernodes[g], supernodes[g + 1]
        e = indptr[i]
        n = indptr[i + 1] - e
        while i < end:
            rows = 4 if i + 4 <= end else 1
            if filled + rows * n > buffer.size:
                _flush(code, numbers, data, m, v, held, begin, buffer, filled)
                begin, filled = begin + filled, 0
            if rows == 4:
                _dots_of_four(delta, i, x, indices, e, n, full, buffer, filled, many)
            else:
                _dots_of_one(delta, i, x, indices, e, n, full, buffer, filled, many)
            if full < samples:
                _remainder(delta, i, rows, x, indices, e, n, full, samples, buffer, filled)
            filled += rows * n
            i += rows
    _flush(code, numbers, data, m, v, held, begin, buffer, filled)


@compiled(fastmath={"contract"})
def _flush(code, numbers, data, m, v, held, begin, buffer, count):  # type: ignore[no-untyped-def]
    """Store, add or apply the gradient of entries `begin` to `begin` + `count`."""
    gradient, out = buffer[:count], data[begin : begin + count]
    if held.size:
        gradient += held[begin : begin + count]
    if code == STORE:
        out[:] = gradient
    elif code == ADD:
        out += gradient
    else:
        apply(code, numbers, data, m, v, begin, buffer, count)


@compiled(fastmath={"contract"})
def _dots_of_four(delta, i, x, indices, e, n, samples, out, at, many):  # type: ignore[no-untyped-def]
    """Four rows; the last columns may be computed twice, which changes nothing."""
    if many and n >= 4:
        for c in range(0, n, 4):
            c = min(c, n - 4)
            dots(4, 4, delta, i, x, indices, e + c, samples, out, at + c, n)
    elif n >= 2:
        for r in range(0, 4, 2):
            for c in range(0, n, 2):
                c = min(c, n - 2)
                dots(2, 2, delta, i + r, x, indices, e + c, samples, out, at + r * n + c, n)
    elif n == 1:
        dots(4, 1, delta, i, x, indices, e, samples, out, at, n)


@compiled(fastmath={"contract"})
def _dots_of_one(delta, i, x, indices, e, n, samples, out, at, many):  # type: ignore[no-untyped-def]
    if many and n >= 8:
        for c in range(0, n, 8):
            c = min(c, n - 8)
            dots(1, 8, delta, i, x, indices, e + c, samples, out, at + c, n)
    elif n >= 4:
        for c in range(0, n, 4):
            c = min(c, n - 4)
            dots(1, 4, delta, i, x, indices, e + c, samples, out, at + c, n)
    else:
        for c in range(n):
            dots(1, 1, delta, i, x, indices, e + c, samples, out, at + c, n)


@compiled(fastmath={"contract"})
def _remainder(delta, i, rows, x, indices, e, n, full, samples, out, at):  # type: ignore[no-untyped-def]
    """Samples behind the last whole vector, one after the other."""
    for s in range(full, samples):
        for r in range(rows):
            d = delta[i + r, s]
            for k in range(n):
                out[at + r * n + k] += d * x[indices[e + k], s]


@compiled
def row_range_sums(delta, first, last, samples, out, accumulate, vector):  # type: ignore[no-untyped-def]
    """Write or add the sums of rows `first` to `last`; lanes and halves as in a dot product."""
    lanes = len(vector)
    acc = np.empty(lanes, delta.dtype)
    full = samples // lanes * lanes
    for i in range(first, last):
        row = delta[i]
        acc[:] = 0
        for s in range(0, full, lanes):
            for t in range(lanes):
                acc[t] += row[s + t]
        half = lanes // 2
        while half:
            for t in range(half):
                acc[t] += acc[t + half]
            half //= 2
        total = acc[0]
        for s in range(full, samples):
            total += row[s]
        out[i] = out[i] + total if accumulate else total


def warm_up_calls(dtype: np.dtype[Any], positions: np.dtype[Any]) -> list[Call]:
    """List calls (see `compiling.warm_up`) that need all kernels here, for one dtype of weights and one of positions."""
    panel = new_panel(1, LANES, dtype)
    panel[...] = 0
    block = make_block(np.zeros(2, np.int64), np.zeros(0, positions), 1)
    return [
        partial(sddmm_update, block, panel, panel, 1, SGD(0.0), 1, np.zeros(0, dtype)),
        partial(row_sums, panel, 1, np.zeros(1, dtype)),
    ]
